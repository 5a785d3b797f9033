#ifndef BASE_LIVE_COUNT_H_
#define BASE_LIVE_COUNT_H_

#include <chrono>
#include <memory>
#include <utility>

#include "base/mutex.h"

namespace sluice {

// How many objects of some kind exist, for whoever must outlive them all. What
// it is for: gRPC runs callbacks on threads that live as long as any channel or
// server of the process and are joined by whoever drops the last of those. A
// client reactor owns a piece of its channel and usually dies on such a thread,
// which must then not be the one that joins itself: the channel's owner waits
// until its reactors are gone. Thread-safe.
class LiveCount {
 public:
  // Counts its holder. Declared as the holder's first member, it goes last.
  class Member {
   public:
    explicit Member(const LiveCount& count) : state_(count.state_) {
      MutexLock lock(state_->mu);
      ++state_->live;
    }
    ~Member() {
      MutexLock lock(state_->mu);
      if (--state_->live == 0) state_->none.NotifyAll();
    }
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

   private:
    friend class LiveCount;
    struct State {
      Mutex mu;
      CondVar none;
      int live ABSL_GUARDED_BY(mu) = 0;
    };
    const std::shared_ptr<State> state_;
  };

  // False: there still were some after `at_most`.
  bool AwaitNone(std::chrono::milliseconds at_most) const {
    const auto end = std::chrono::steady_clock::now() + at_most;
    MutexLock lock(state_->mu);
    while (state_->live > 0) {
      const auto left = end - std::chrono::steady_clock::now();
      if (left <= std::chrono::nanoseconds(0)) return false;
      state_->none.WaitFor(state_->mu, left);
    }
    return true;
  }

 private:
  const std::shared_ptr<Member::State> state_ =
      std::make_shared<Member::State>();
};

}  // namespace sluice

#endif  // BASE_LIVE_COUNT_H_
