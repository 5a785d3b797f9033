#ifndef KVTRANSFER_TRANSFER_CONTEXT_H_
#define KVTRANSFER_TRANSFER_CONTEXT_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"
#include "kvtransfer/append_digests.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/region_table.h"
#include "kvtransfer/transfer_observer.h"
#include "kvtransfer/transfer_plan.h"
#include "kvtransfer/transfer_stats.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

class Quarantine;
class StagingTable;

struct TransferLimits {
  uint32_t resend_ms = 200;
  uint32_t max_resend_ms = 2000;
  uint32_t drain_timeout_ms = 5000;
  uint32_t stop_timeout_ms = 3000;  // put: then the peer is lost
  uint64_t stream_window_bytes = 4 << 20;
  uint32_t stream_message_bytes = 128 << 10;
  uint32_t slots_per_transfer = 2;     // of staging, at most
  uint64_t in_place_bytes = 16 << 10;  // shorter runs go through staging
  bool digests = true;                 // off in benchmarks only
};

// What a transfer needs of its engine. Everything outlives every transfer.
// Transfer thread only.
struct TransferContext {
  const Clock* clock = nullptr;
  const LayoutManifest* manifest = nullptr;  // ours
  RegionTable* regions = nullptr;
  std::string region_key;                   // our region
  AppendDigests* append_digests = nullptr;  // ours, or none
  Quarantine* quarantine = nullptr;
  StagingTable* staging = nullptr;
  TransferStats* stats = nullptr;
  TransferObserver* observer = nullptr;  // or none
  TransferLimits limits;
  // Sends to the current generation of a peer; dropped if it has no link.
  std::function<void(const std::string& peer, const TransferId& id,
                     ControlBody body)>
      send;
  // Gives up the data link of a peer: its operations end.
  std::function<void(const std::string& peer, const absl::Status& why)>
      lose_peer;

  int64_t NowMs() const { return clock->NowMs(); }
  // PlanStreams(), observed.
  absl::StatusOr<std::vector<StreamPlan>> Plan(const LayoutManifest& source,
                                               uint32_t source_replica,
                                               const LayoutManifest& target,
                                               uint32_t target_replica) const;
  // Counts one transfer's begin, what it is to move, and its end.
  void CountStart(TransferDirection direction) const;
  void CountPayload(TransferDirection direction, uint64_t bytes) const;
  void CountEnd(TransferDirection direction, const TransferResult& result,
                uint64_t payload_bytes) const;
};

// One data link as a transfer uses it.
struct DataLink {
  Transport* transport = nullptr;
  LinkId link = 0;
};

// When to send again: every resend_ms, doubling, until Reset() or Stop().
class ResendTimer {
 public:
  void Start(int64_t now_ms, const TransferLimits& limits) {
    interval_ms_ = limits.resend_ms;
    due_ms_ = now_ms + interval_ms_;
  }
  void Stop() { due_ms_ = -1; }
  bool armed() const { return due_ms_ >= 0; }
  // True when due; doubles the interval.
  bool Fire(int64_t now_ms, const TransferLimits& limits) {
    if (due_ms_ < 0 || now_ms < due_ms_) return false;
    interval_ms_ = std::min<int64_t>(2 * interval_ms_, limits.max_resend_ms);
    due_ms_ = now_ms + interval_ms_;
    return true;
  }

 private:
  int64_t due_ms_ = -1;
  int64_t interval_ms_ = 0;
};

// The terminal state that a status means.
inline TransferState StateOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return TransferState::kCompleted;
    case absl::StatusCode::kCancelled:
      return TransferState::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return TransferState::kExpired;
    default:
      return TransferState::kFailed;
  }
}

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_CONTEXT_H_
