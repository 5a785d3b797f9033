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
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  launched_.NotifyAll();
  thread_.join();
}

void RankExecutor::Launch(std::shared_ptr<const StepPlan> plan) {
  {
    MutexLock lock(mu_);
    SLUICE_CHECK(in_flight_ < 2);
    ++in_flight_;
    plans_.push_back(std::move(plan));
  }
  launched_.NotifyOne();
}

absl::StatusOr<StepResult> RankExecutor::Wait() {
  MutexLock lock(mu_);
  SLUICE_CHECK(in_flight_ > 0);
  while (results_.empty()) done_.Wait(mu_);
  absl::StatusOr<StepResult> result = std::move(results_.front());
  results_.pop_front();
  --in_flight_;
  return result;
}

void RankExecutor::RunThread() {
  pthread_setname_np(pthread_self(), "rank 0");
  if (pinned_ != nullptr) pinned_->PinThreads();
  while (true) {
    std::shared_ptr<const StepPlan> plan;
    {
      MutexLock lock(mu_);
      while (plans_.empty() && !stop_) launched_.Wait(mu_);
      if (plans_.empty()) return;
      plan = std::move(plans_.front());
      plans_.pop_front();
    }
    absl::StatusOr<StepResult> result = runner_->Run(*plan);
    {
      MutexLock lock(mu_);
      results_.push_back(std::move(result));
    }
    done_.NotifyOne();
  }
}

}  // namespace sluice::worker
