#ifndef WORKER_SERVER_WORKER_STATE_H_
#define WORKER_SERVER_WORKER_STATE_H_

#include <atomic>
#include <functional>

#include "base/health.h"
#include "base/log.h"
#include "base/mutex.h"
#include "proto/worker.pb.h"

namespace sluice::worker {

// The worker's life: STARTING, SERVING, DRAINING, DRAINED, or FAILED. Each
// change is logged once and shows in the health board's reasons. Any thread.
class WorkerState {
 public:
  explicit WorkerState(HealthBoard& health) : health_(health) {}

  // Changes only forward, but for FAILED, which any state can become.
  void Set(v1::State next, const char* cause) {
    v1::State before = v1::STARTING;
    {
      MutexLock lock(mu_);
      before = state_.load();
      if (next <= before || before == v1::FAILED) return;
      state_ = next;
    }
    health_.SetReason("starting", next == v1::STARTING);
    health_.SetReason("draining", next == v1::DRAINING);
    health_.SetReason("drained", next == v1::DRAINED);
    Log(kInfo, "worker state",
        {{"before", v1::State_Name(before)},
         {"after", v1::State_Name(next)},
         {"cause", cause}});
  }
  v1::State Get() const { return state_.load(); }

 private:
  HealthBoard& health_;
  Mutex mu_;
  std::atomic<v1::State> state_{v1::STARTING};
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_WORKER_STATE_H_
