#ifndef BASE_INBOX_H_
#define BASE_INBOX_H_

#include <chrono>
#include <functional>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace sluice {

// Hand-over of values from many threads to one. Unbounded: admission control
// bounds what can be in it. `wake`, if given, runs after each Push() on the
// pushing thread (to ring an event descriptor); it must not block.
template <typename T>
class Inbox {
 public:
  Inbox() = default;
  explicit Inbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  void Push(T value) {
    {
      MutexLock lock(mu_);
      queue_.push_back(std::move(value));
    }
    not_empty_.NotifyOne();
    if (wake_) wake_();
  }

  // Takes everything queued, in order; if nothing is, waits up to `idle`.
  std::vector<T> Drain(std::chrono::nanoseconds idle) {
    MutexLock lock(mu_);
    if (queue_.empty() && idle.count() > 0) not_empty_.WaitFor(mu_, idle);
    return std::exchange(queue_, {});
  }

 private:
  const std::function<void()> wake_;
  Mutex mu_;
  CondVar not_empty_;
  std::vector<T> queue_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice

#endif  // BASE_INBOX_H_
