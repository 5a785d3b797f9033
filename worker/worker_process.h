#ifndef WORKER_WORKER_PROCESS_H_
#define WORKER_WORKER_PROCESS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/exit_code.h"
#include "base/health.h"
#include "base/metrics.h"
#include "worker/transfer_hooks.h"
#include "worker/worker_options.h"

namespace sluice::worker {

// A failed start: what, and in which phase (for the exit code).
struct StartFailure {
  StartPhase phase = StartPhase::kRun;
  absl::Status status;
};

// All of one worker, put together: compute pool and kernels, model, KV pool,
// executor, engine, transfers, gRPC. Owns every thread but those of main.
class WorkerProcess {
 public:
  // Loads the model and starts serving. `failure` is filled when null is
  // returned. Borrows health and metrics for its life.
  static std::unique_ptr<WorkerProcess> Start(const WorkerOptions& options,
                                              HealthBoard& health,
                                              MetricRegistry& metrics,
                                              const TransferHooks& hooks,
                                              StartFailure& failure);
  ~WorkerProcess();

  // Begins the drain; the first call counts. Any thread.
  void StartDrain(const char* cause);
  // Logs where the time of the next 100 steps that compute goes, op by op;
  // while that runs, asking again does nothing. Any thread.
  void ProfileSteps();
  // Blocks until drained.
  void Wait();

 private:
  struct Parts;
  explicit WorkerProcess(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

// --check: the effective memory budget of `options`, without reading weights.
absl::StatusOr<std::string> CheckText(const WorkerOptions& options);

// The readiness reasons of a worker.
HealthOptions WorkerHealthOptions();

}  // namespace sluice::worker

#endif  // WORKER_WORKER_PROCESS_H_
