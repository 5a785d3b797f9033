#ifndef WORKER_EXEC_RANK_EXECUTOR_H_
#define WORKER_EXEC_RANK_EXECUTOR_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/wait_word.h"
#include "worker/engine/executor.h"
#include "worker/exec/step_runner.h"

namespace sluice::worker {

// The one rank of this worker: a thread that runs launched plans in order.
// Launch() and Wait() belong to the engine thread. Destruction finishes what
// was launched and joins the thread. While a next step is launched, the rank
// goes from one to the other without a lock, an allocation or a wait; its one
// system call wakes the engine, which sleeps so that the rank has its core.
class RankExecutor final : public Executor {
 public:
  // The errors of StepRunner::Create. Borrows what the options point to.
  static absl::StatusOr<std::unique_ptr<RankExecutor>> Create(
      const StepRunnerOptions& options);
  ~RankExecutor() override;

  void Launch(std::shared_ptr<const StepPlan> plan) override;
  absl::Status Wait(StepResult* result) override;

  int64_t buffer_bytes() const { return runner_->buffer_bytes(); }

 private:
  RankExecutor(const StepRunnerOptions& options,
               std::unique_ptr<StepRunner> runner);

  // One step in flight; two of them take turns. Whoever holds the step's
  // number in launched_ or done_ holds the slot.
  struct Slot {
    std::shared_ptr<const StepPlan> plan;
    absl::Status status;
    StepResult result;
  };

  void RunThread();

  kernels::ThreadPool* const pinned_;         // null: not to be pinned
  const std::unique_ptr<StepRunner> runner_;  // rank thread only
  Slot slots_[2];                             // by number of the step
  kernels::WaitWord launched_;                // steps, and one more to stop
  kernels::WaitWord done_;                    // steps
  uint32_t taken_ = 0;                        // steps waited for; engine thread
  std::atomic<int64_t> last_{-1};             // step to end before, once known
  std::thread thread_;
};

}  // namespace sluice::worker

#endif  // WORKER_EXEC_RANK_EXECUTOR_H_
