#ifndef WORKER_SERVER_DRAINER_H_
#define WORKER_SERVER_DRAINER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "proto/worker.pb.h"
#include "worker/engine/engine.h"
#include "worker/server/request_table.h"
#include "worker/server/worker_state.h"

namespace sluice::worker {

// SERVING -> DRAINING -> DRAINED, once, by whoever asks first (a signal or the
// Drain call). What is admitted is finished within the budget; what is left
// then ends kUnavailable, and readers that do not take even that are cut.
// DRAINED holds when no request, no held or remote block and no reader is left;
// then `on_drained` runs on the drain's thread.
class Drainer {
 public:
  struct Parts {
    Engine* engine = nullptr;
    RequestTable* requests = nullptr;
    WorkerState* state = nullptr;
    std::function<uint32_t()> open_transfers;
    std::function<void()> on_change;  // a report is due
    std::function<void()> on_drained;
  };
  explicit Drainer(Parts parts) : parts_(std::move(parts)) {}

  // Begins unless it has begun. The budget counts from the first call.
  void Start(uint32_t budget_ms, const char* cause);
  v1::DrainStatus Status() const;

 private:
  void Run(std::stop_token stop, uint32_t budget_ms);
  bool Empty() const;

  const Parts parts_;
  std::atomic<bool> begun_{false};
  std::jthread thread_;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_DRAINER_H_
