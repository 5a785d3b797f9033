#include "worker/server/drainer.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/grpc_status.h"
#include "base/thread.h"

namespace sluice::worker {
namespace {

constexpr std::chrono::milliseconds kLookEvery(20);
constexpr std::chrono::milliseconds kReportGrace(100);
// How long readers may take for what ended at the end of the budget.
constexpr std::chrono::milliseconds kReadGrace(500);
constexpr int64_t kRetryMs = 1000;

}  // namespace

void Drainer::Start(uint32_t budget_ms, const char* cause) {
  if (begun_.exchange(true)) return;
  parts_.state->Set(v1::DRAINING, cause);
  parts_.engine->StartDraining();
  if (parts_.on_change) parts_.on_change();
  thread_ = StartThread("drain", [this, budget_ms](std::stop_token stop) {
    Run(std::move(stop), budget_ms);
  });
}

v1::DrainStatus Drainer::Status() const {
  const SnapshotRef<EngineStats> stats = parts_.engine->stats();
  v1::DrainStatus status;
  status.set_state(parts_.state->Get());
  status.set_requests(static_cast<uint32_t>(stats->live_requests));
  status.set_transfers(parts_.open_transfers());
  status.set_held_blocks(stats->active_blocks + stats->quarantined_blocks);
  status.set_readers(static_cast<uint32_t>(parts_.requests->size()));
  status.set_safe_to_delete(parts_.state->Get() == v1::DRAINED);
  return status;
}

bool Drainer::Empty() const {
  const v1::DrainStatus status = Status();
  return status.requests() == 0 && status.transfers() == 0 &&
         status.held_blocks() == 0 && status.readers() == 0;
}

void Drainer::Run(std::stop_token stop, uint32_t budget_ms) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::milliseconds(budget_ms);
  const absl::Status spent =
      WithRetry(absl::UnavailableError("drain budget is spent"), kRetryMs);
  bool cancelled = false;
  std::mutex mu;
  std::condition_variable_any wake;
  std::unique_lock<std::mutex> lock(mu);
  while (!stop.stop_requested() && !Empty()) {
    const Clock::time_point now = Clock::now();
    if (!cancelled && now >= deadline) {
      cancelled = true;
      parts_.requests->CancelAll(spent);
    }
    if (now >= deadline + kReadGrace) parts_.requests->CutFinished(spent);
    wake.wait_for(lock, stop, kLookEvery,
                  [&stop] { return stop.stop_requested(); });
  }
  if (stop.stop_requested()) return;
  parts_.state->Set(v1::DRAINED, "nothing is left");
  if (parts_.on_change) parts_.on_change();
  // Lets the report leave before the process does.
  wake.wait_for(lock, stop, kReportGrace,
                [&stop] { return stop.stop_requested(); });
  if (parts_.on_drained) parts_.on_drained();
}

}  // namespace sluice::worker
