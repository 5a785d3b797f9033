#ifndef WORKER_EXEC_RANK_EXECUTOR_H_
#define WORKER_EXEC_RANK_EXECUTOR_H_

#include <deque>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "worker/engine/executor.h"
#include "worker/exec/step_runner.h"

namespace sluice::worker {

// The one rank of this worker: a thread that runs launched plans in order.
// Launch() and Wait() belong to the engine thread. Destruction finishes what
// was launched and joins the thread.
class RankExecutor final : public Executor {
 public:
  // The errors of StepRunner::Create. Borrows what the options point to.
  static absl::StatusOr<std::unique_ptr<RankExecutor>> Create(
      const StepRunnerOptions& options);
  ~RankExecutor() override;

  void Launch(std::shared_ptr<const StepPlan> plan) override;
  absl::StatusOr<StepResult> Wait() override;

  int64_t buffer_bytes() const { return runner_->buffer_bytes(); }

 private:
  RankExecutor(const StepRunnerOptions& options,
               std::unique_ptr<StepRunner> runner);

  void RunThread();

  kernels::ThreadPool* const pinned_;         // null: not to be pinned
  const std::unique_ptr<StepRunner> runner_;  // rank thread only
  Mutex mu_;
  CondVar launched_;
  CondVar done_;
  std::deque<std::shared_ptr<const StepPlan>> plans_ ABSL_GUARDED_BY(mu_);
  std::deque<absl::StatusOr<StepResult>> results_ ABSL_GUARDED_BY(mu_);
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;  // launched, not waited for
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace sluice::worker

#endif  // WORKER_EXEC_RANK_EXECUTOR_H_
