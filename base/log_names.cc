#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace sluice {

absl::string_view LogLevelName(LogLevel level) {
  constexpr absl::string_view kNames[] = {"debug", "info", "warn", "error"};
  return kNames[static_cast<int>(level)];
}

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name) {
  if (name.empty()) return LogLevel::kInfo;
  for (int i = 0; i < kNumLogLevels; ++i) {
    const auto level = static_cast<LogLevel>(i);
    if (name == LogLevelName(level)) return level;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "log level \"", name, "\": want debug, info, warn or error"));
}

absl::StatusOr<LogFormat> ParseLogFormat(absl::string_view name) {
  if (name.empty() || name == "json") return LogFormat::kJson;
  if (name == "text") return LogFormat::kText;
  return absl::InvalidArgumentError(
      absl::StrCat("log format \"", name, "\": want json or text"));
}

}  // namespace sluice
