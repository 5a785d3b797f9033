#ifndef BASE_LOG_LINE_H_
#define BASE_LOG_LINE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/log.h"

namespace sluice {

inline constexpr size_t kMaxLogLineBytes = 8192;  // with the newline

// Who says it.
struct LogOrigin {
  std::string role;
  std::string instance;
  std::string thread;
};

// The part of a line after its time, which is what makes lines equal; without
// the end, so that a repeat count can follow. At most kMaxLogLineBytes with the
// rest of the line added: longer strings are shortened and further fields left
// out, and "cut" says so.
std::string LogBody(LogFormat format, LogLevel level, absl::string_view msg,
                    const LogOrigin& origin, absl::Span<const LogField> fields);

// The whole line with its newline. `repeat` 0: not a folded line.
std::string LogLine(LogFormat format, int64_t unix_us, absl::string_view body,
                    uint64_t repeat);

// Appends `text` as a JSON string with quotes, of at most `max_bytes` in all
// (at least 2). Invalid UTF-8 becomes U+FFFD. False when it had to be
// shortened, which never splits a character or an escape.
bool AppendJsonString(absl::string_view text, size_t max_bytes,
                      std::string& out);

// Writes all of `text`, waiting as long as it takes. False when the descriptor
// is of no use any more.
bool WriteAll(int fd, absl::string_view text);

}  // namespace sluice

#endif  // BASE_LOG_LINE_H_
