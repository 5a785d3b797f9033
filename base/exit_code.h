#ifndef BASE_EXIT_CODE_H_
#define BASE_EXIT_CODE_H_

#include "absl/status/status.h"

namespace sluice {

enum class ExitCode : int {
  kOk = 0,            // drained
  kProbeFailed = 1,   // --probe, --smoke
  kUsage = 64,        // command line
  kModelFiles = 65,   // bad input files
  kUnavailable = 69,  // port or device
  kInternal = 70,     // our bug
  kPermission = 77,   // certificate or permission
  kConfiguration = 78,
};

// Where an error stopped the process.
enum class StartPhase { kCommandLine, kConfig, kModel, kListen, kRun };

// OK: 0. PERMISSION_DENIED and UNAUTHENTICATED: 77 in every phase. Else by
// phase: kCommandLine 64; kConfig 64 for INVALID_ARGUMENT (a flag, see
// LoadConfig), else 78; kModel 70 for INTERNAL, 69 for UNAVAILABLE and
// RESOURCE_EXHAUSTED, 78 for FAILED_PRECONDITION, else 65; kListen 78 for
// INVALID_ARGUMENT, else 69; kRun 69 for UNAVAILABLE, else 70.
ExitCode ExitCodeFor(StartPhase phase, const absl::Status& status);

// Flushes log and stdio, then ends the process at once, without destructors.
[[noreturn]] void ExitProcess(ExitCode code);

}  // namespace sluice

#endif  // BASE_EXIT_CODE_H_
