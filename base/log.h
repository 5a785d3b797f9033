#ifndef BASE_LOG_H_
#define BASE_LOG_H_

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sluice {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3 };
inline constexpr LogLevel kDebug = LogLevel::kDebug;
inline constexpr LogLevel kInfo = LogLevel::kInfo;
inline constexpr LogLevel kWarn = LogLevel::kWarn;
inline constexpr LogLevel kError = LogLevel::kError;
inline constexpr int kNumLogLevels = 4;

enum class LogFormat { kJson, kText };

// A value of a log line. Strings are borrowed until Log() returns.
class LogValue {
 public:
  LogValue(absl::string_view value) : value_(value) {}               // NOLINT
  LogValue(const char* value) : value_(absl::string_view(value)) {}  // NOLINT
  LogValue(const std::string& value)                                 // NOLINT
      : value_(absl::string_view(value)) {}
  LogValue(std::string_view value)  // NOLINT
      : value_(absl::string_view(value.data(), value.size())) {}
  LogValue(std::same_as<bool> auto value) : value_(value) {}  // NOLINT
  LogValue(std::signed_integral auto value)                   // NOLINT
      : value_(static_cast<int64_t>(value)) {}
  LogValue(std::unsigned_integral auto value)  // NOLINT
      requires(!std::same_as<decltype(value), bool>)
      : value_(static_cast<uint64_t>(value)) {}
  LogValue(std::floating_point auto value)  // NOLINT
      : value_(static_cast<double>(value)) {}

  using Variant =
      std::variant<absl::string_view, bool, int64_t, uint64_t, double>;
  const Variant& value() const { return value_; }

 private:
  Variant value_;
};

// Keys are snake case with a unit suffix; each key at most once per line.
struct LogField {
  absl::string_view key;
  LogValue value;
};

struct LogOptions {
  std::string role;      // key `role`
  std::string instance;  // key `instance`
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kJson;
  int fd = 2;  // borrowed; where lines go
};

// Sets up the process's log; before it, lines carry no role and no instance.
// Any thread, any number of times.
void ConfigureLog(const LogOptions& options);

// Queues one line: {"ts":...,"level":...,"msg":...,"role":...,"instance":...,
// "thread":...,<fields>}. `msg` is constant text; values go into fields. At
// most 8 KiB, then cut with "cut":true; invalid UTF-8 becomes U+FFFD; equal
// lines beyond 10 in a second are folded into one with "repeat":n. Never waits
// for the descriptor: when the queue (4 MiB) is full the line is dropped and
// counted. Cost: microseconds. Any thread.
void Log(LogLevel level, absl::string_view msg,
         std::initializer_list<LogField> fields = {});
void Log(LogLevel level, absl::string_view msg,
         absl::Span<const LogField> fields);

// Whether a line of `level` would be written now.
bool LogEnabled(LogLevel level);

// All levels for this long, from now (SIGUSR1 does 60 s).
void LogDebugFor(int64_t ms);

// Waits until everything queued is written, at most `timeout_ms`. True if so.
bool FlushLog(int64_t timeout_ms);

// "debug", "info", "warn", "error"; "json", "text". INVALID_ARGUMENT naming the
// value otherwise. Empty: info, json.
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name);
absl::StatusOr<LogFormat> ParseLogFormat(absl::string_view name);
absl::string_view LogLevelName(LogLevel level);

// Since the process's start.
struct LogCounts {
  uint64_t lines[kNumLogLevels];  // queued, by level
  uint64_t dropped;               // queue full or descriptor gone
};
LogCounts GetLogCounts();

}  // namespace sluice

#endif  // BASE_LOG_H_
