#include "base/log_line.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace sluice {
namespace {

// Room for the time, the repeat count, the cut mark and the ends.
constexpr size_t kReservedBytes = 128;
constexpr char kCutJson[] = ",\"cut\":true";
constexpr char kCutText[] = " cut=true";

// Length of the valid UTF-8 sequence at the start of `s`; 0 if there is none.
size_t SequenceLength(absl::string_view s) {
  const auto byte = [&s](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xC2 && lead < 0xE0   ? 2
                        : lead >= 0xE0 && lead < 0xF0 ? 3
                        : lead >= 0xF0 && lead < 0xF5 ? 4
                                                      : 0;
  if (length == 0 || length > s.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  if ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F) ||
      (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F)) {
    return 0;
  }
  return length;
}

std::string Number(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "\"nan\"" : "\"inf\"";
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

// Appends a value that fits into `room` bytes; false when it was shortened or,
// if it cannot be, left out.
bool AppendValue(const LogValue& value, size_t room, std::string& out) {
  if (const auto* text = std::get_if<absl::string_view>(&value.value())) {
    return AppendJsonString(*text, room, out);
  }
  std::string scalar;
  if (const auto* b = std::get_if<bool>(&value.value())) {
    scalar = *b ? "true" : "false";
  } else if (const auto* i = std::get_if<int64_t>(&value.value())) {
    scalar = absl::StrCat(*i);
  } else if (const auto* u = std::get_if<uint64_t>(&value.value())) {
    scalar = absl::StrCat(*u);
  } else {
    scalar = Number(std::get<double>(value.value()));
  }
  out += scalar;
  return true;
}

// A text value needs quotes where a reader could not tell its end.
bool IsPlain(absl::string_view text) {
  for (const char c : text) {
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f)
      return false;
  }
  return !text.empty();
}

// Appends one key and value; false when the line is full.
bool AppendField(LogFormat format, const LogField& field, std::string& out) {
  const size_t limit = kMaxLogLineBytes - kReservedBytes;
  constexpr size_t kMinValueBytes = 32;
  const size_t used = out.size() + field.key.size() + kMinValueBytes;
  if (used > limit) return false;
  if (format == LogFormat::kJson) {
    absl::StrAppend(&out, ",\"", field.key, "\":");
  } else {
    absl::StrAppend(&out, " ", field.key, "=");
    const auto* text = std::get_if<absl::string_view>(&field.value.value());
    if (text != nullptr && text->size() < limit - used && IsPlain(*text)) {
      absl::StrAppend(&out, *text);
      return true;
    }
  }
  return AppendValue(field.value, limit - out.size(), out);
}

}  // namespace

bool AppendJsonString(absl::string_view text, size_t max_bytes,
                      std::string& out) {
  const size_t end = out.size() + max_bytes - 1;  // before the last quote
  out += '"';
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    const uint8_t c = static_cast<uint8_t>(text[0]);
    char escaped[8];
    absl::string_view piece = text.substr(0, length);
    if (length == 0) {
      piece = "\xEF\xBF\xBD";
    } else if (c == '"' || c == '\\') {
      escaped[0] = '\\';
      escaped[1] = static_cast<char>(c);
      piece = absl::string_view(escaped, 2);
    } else if (c == '\n') {
      piece = "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      absl::SNPrintF(escaped, sizeof(escaped), "\\u%04x", c);
      piece = absl::string_view(escaped, 6);
    }
    if (out.size() + piece.size() > end) break;
    absl::StrAppend(&out, piece);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  out += '"';
  return text.empty();
}

std::string LogBody(LogFormat format, LogLevel level, absl::string_view msg,
                    const LogOrigin& origin,
                    absl::Span<const LogField> fields) {
  std::string out;
  bool whole = true;
  if (format == LogFormat::kJson) {
    const LogField keys[] = {{"level", LogLevelName(level)},
                             {"msg", msg},
                             {"role", origin.role},
                             {"instance", origin.instance},
                             {"thread", origin.thread}};
    for (const LogField& key : keys) {
      // The time comes before, hence the comma.
      absl::StrAppend(&out, ",\"", key.key, "\":");
      const size_t room = (kMaxLogLineBytes - kReservedBytes - out.size()) / 2;
      whole = AppendValue(key.value, room, out) && whole;
    }
  } else {
    absl::StrAppend(&out, " ", LogLevelName(level), " ", msg.substr(0, 1024));
    whole = msg.size() <= 1024;
  }
  for (const LogField& field : fields) {
    whole = AppendField(format, field, out) && whole;
  }
  if (!whole) out += format == LogFormat::kJson ? kCutJson : kCutText;
  return out;
}

std::string LogLine(LogFormat format, int64_t unix_us, absl::string_view body,
                    uint64_t repeat) {
  const std::string time =
      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::FromUnixMicros(unix_us),
                       absl::UTCTimeZone());
  if (format == LogFormat::kJson) {
    return absl::StrCat("{\"ts\":\"", time, "\"", body,
                        repeat > 0 ? absl::StrCat(",\"repeat\":", repeat) : "",
                        "}\n");
  }
  return absl::StrCat(time, body,
                      repeat > 0 ? absl::StrCat(" repeat=", repeat) : "", "\n");
}

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      pollfd ready{fd, POLLOUT, 0};
      poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
