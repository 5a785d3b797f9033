#ifndef ROUTER_FLOW_STRAND_H_
#define ROUTER_FLOW_STRAND_H_

#include <deque>
#include <utility>

#include "base/mutex.h"

namespace sluice::router {

// Handles items one at a time, in order, on whichever thread pushes: the one
// that finds nobody at work works until nothing is left. Items pushed by a
// handler wait for their turn, so a handler is never entered twice.
template <typename Item>
class Strand {
 public:
  // `handle(Item)`; no lock is held while it runs. The caller keeps the strand
  // alive until Push() returns.
  template <typename Handler>
  void Push(Item item, Handler handle) {
    {
      MutexLock lock(mu_);
      queue_.push_back(std::move(item));
      if (busy_) return;
      busy_ = true;
    }
    while (true) {
      Item next;
      {
        MutexLock lock(mu_);
        if (queue_.empty()) {
          busy_ = false;
          return;
        }
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      handle(std::move(next));
    }
  }

 private:
  Mutex mu_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mu_);
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_STRAND_H_
