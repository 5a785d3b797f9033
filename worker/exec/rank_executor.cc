#include "worker/exec/rank_executor.h"

#include <pthread.h>

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::worker {

absl::StatusOr<std::unique_ptr<RankExecutor>> RankExecutor::Create(
    const StepRunnerOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<StepRunner> runner,
                   StepRunner::Create(options));
  return std::unique_ptr<RankExecutor>(
      new RankExecutor(options, std::move(runner)));
}

RankExecutor::RankExecutor(const StepRunnerOptions& options,
                           std::unique_ptr<StepRunner> runner)
    : pinned_(options.pin_threads ? options.threads : nullptr),
      runner_(std::move(runner)),
      thread_([this] { RunThread(); }) {}

RankExecutor::~RankExecutor() {
  last_.store(launched_.value(), std::memory_order_relaxed);
  launched_.Set(launched_.value() + 1);
  thread_.join();
}

void RankExecutor::Launch(std::shared_ptr<const StepPlan> plan) {
  const uint32_t step = launched_.value();
  SLUICE_CHECK(step - taken_ < 2);
  slots_[step % 2].plan = std::move(plan);
  launched_.Set(step + 1);
}

absl::Status RankExecutor::Wait(StepResult* result) {
  SLUICE_CHECK(launched_.value() != taken_);
  done_.SleepForChange(taken_);
  Slot& slot = slots_[taken_ % 2];
  ++taken_;
  std::swap(*result, slot.result);
  slot.plan.reset();
  return std::exchange(slot.status, absl::OkStatus());
}

void RankExecutor::RunThread() {
  pthread_setname_np(pthread_self(), "rank 0");
  if (pinned_ != nullptr) pinned_->PinThreads();
  for (uint32_t step = 0;; ++step) {
    launched_.WaitForChange(step);
    if (last_.load(std::memory_order_relaxed) == step) return;
    Slot& slot = slots_[step % 2];
    slot.status = runner_->RunInto(*slot.plan, &slot.result);
    done_.Set(step + 1);
  }
}

}  // namespace sluice::worker
