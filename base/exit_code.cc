#include "base/exit_code.h"

#include <cstdio>
#include <cstdlib>

#include "base/log.h"

namespace sluice {
namespace {

constexpr int64_t kFlushTimeoutMs = 1000;

ExitCode ModelExitCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInternal:
      return ExitCode::kInternal;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return ExitCode::kUnavailable;
    case absl::StatusCode::kFailedPrecondition:
      return ExitCode::kConfiguration;
    default:
      return ExitCode::kModelFiles;
  }
}

}  // namespace

ExitCode ExitCodeFor(StartPhase phase, const absl::Status& status) {
  const absl::StatusCode code = status.code();
  if (code == absl::StatusCode::kOk) return ExitCode::kOk;
  if (code == absl::StatusCode::kPermissionDenied ||
      code == absl::StatusCode::kUnauthenticated) {
    return ExitCode::kPermission;
  }
  const bool invalid = code == absl::StatusCode::kInvalidArgument;
  switch (phase) {
    case StartPhase::kCommandLine:
      return ExitCode::kUsage;
    case StartPhase::kConfig:
      return invalid ? ExitCode::kUsage : ExitCode::kConfiguration;
    case StartPhase::kModel:
      return ModelExitCode(code);
    case StartPhase::kListen:
      return invalid ? ExitCode::kConfiguration : ExitCode::kUnavailable;
    case StartPhase::kRun:
      break;
  }
  return code == absl::StatusCode::kUnavailable ? ExitCode::kUnavailable
                                                : ExitCode::kInternal;
}

void ExitProcess(ExitCode code) {
  FlushLog(kFlushTimeoutMs);
  std::fflush(stdout);
  std::fflush(stderr);
  std::_Exit(static_cast<int>(code));
}

}  // namespace sluice
