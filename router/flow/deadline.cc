#include "router/flow/deadline.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/thread.h"

namespace sluice::router {

void TimerQueue::Start() {
  thread_ = StartThread("deadlines",
                        [this](const std::stop_token& stop) { Run(stop); });
}

void TimerQueue::Stop() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  {
    MutexLock lock(mu_);
    changed_.NotifyAll();
  }
  thread_.join();
}

TimerQueue::Key TimerQueue::Schedule(int64_t at_us,
                                     std::weak_ptr<TimerTarget> target) {
  MutexLock lock(mu_);
  const Key key(at_us, next_id_++);
  const bool first = entries_.empty() || key < entries_.begin()->first;
  entries_.emplace(key, std::move(target));
  if (first) changed_.NotifyAll();
  return key;
}

void TimerQueue::Cancel(Key key) {
  MutexLock lock(mu_);
  entries_.erase(key);
}

void TimerQueue::RunDue() {
  const int64_t now_us = clock_.NowMicros();
  std::vector<std::weak_ptr<TimerTarget>> due;
  {
    MutexLock lock(mu_);
    while (!entries_.empty() && entries_.begin()->first.first <= now_us) {
      due.push_back(std::move(entries_.begin()->second));
      entries_.erase(entries_.begin());
    }
  }
  for (const std::weak_ptr<TimerTarget>& weak : due) {
    if (auto target = weak.lock()) target->OnTimer(now_us);
  }
}

size_t TimerQueue::size() const {
  MutexLock lock(mu_);
  return entries_.size();
}

void TimerQueue::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    RunDue();
    MutexLock lock(mu_);
    if (stop.stop_requested()) return;
    int64_t wait_us = 1'000'000;
    if (!entries_.empty()) {
      wait_us = std::clamp<int64_t>(
          entries_.begin()->first.first - clock_.NowMicros(), 0, wait_us);
    }
    if (wait_us > 0) {
      changed_.WaitFor(mu_, std::chrono::microseconds(wait_us));
    }
  }
}

}  // namespace sluice::router
