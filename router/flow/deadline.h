#ifndef ROUTER_FLOW_DEADLINE_H_
#define ROUTER_FLOW_DEADLINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"

namespace sluice::router {

class TimerTarget {
 public:
  virtual ~TimerTarget() = default;
  // On the timer's thread, no lock held; must not block.
  virtual void OnTimer(int64_t now_us) = 0;
};

// Calls targets at their time. One thread; the methods are thread-safe.
class TimerQueue {
 public:
  using Key = std::pair<int64_t, uint64_t>;  // when, which

  explicit TimerQueue(const Clock& clock) : clock_(clock) {}
  ~TimerQueue() { Stop(); }

  void Start();
  void Stop();

  // Calls `target` once at or soon after `at_us` (monotonic), if it still
  // lives then.
  Key Schedule(int64_t at_us, std::weak_ptr<TimerTarget> target);
  // Forgets an entry; one that has run or is running is no error.
  void Cancel(Key key);

  // Runs what is due; Start()'s thread does, and tests.
  void RunDue();
  size_t size() const;

 private:
  void Run(const std::stop_token& stop);

  const Clock& clock_;
  mutable Mutex mu_;
  CondVar changed_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<Key, std::weak_ptr<TimerTarget>> entries_ ABSL_GUARDED_BY(mu_);
  std::jthread thread_;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_DEADLINE_H_
