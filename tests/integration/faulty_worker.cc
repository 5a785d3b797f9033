// sluice-worker with fault points (fault_points.h); $SLUICE_FAULT_PLAN names
// the file of the plan.

#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "tests/integration/fault_points.h"
#include "worker/worker_main.h"

int main(int argc, char** argv) {
  std::string instance;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--instance=")) {
      instance = std::string(argument);
    }
  }
  const char* plan = std::getenv("SLUICE_FAULT_PLAN");
  sluice::FaultPoints points(instance, plan == nullptr ? "" : plan);
  return sluice::worker::RunWorker(argc, argv, sluice::HooksFor(points));
}
