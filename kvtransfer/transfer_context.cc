#include "kvtransfer/transfer_context.h"

namespace sluice::kvtransfer {

absl::StatusOr<std::vector<StreamPlan>> TransferContext::Plan(
    const LayoutManifest& source, uint32_t source_replica,
    const LayoutManifest& target, uint32_t target_replica) const {
  const int64_t begin_us = clock->NowMicros();
  absl::StatusOr<std::vector<StreamPlan>> plans =
      PlanStreams(source, source_replica, target, target_replica);
  if (plans.ok() && observer != nullptr) {
    observer->OnPlanned(PlanKindOf(*plans), clock->NowMicros() - begin_us);
  }
  return plans;
}

void TransferContext::CountStart(TransferDirection direction) const {
  ++stats->inflight_transfers[static_cast<size_t>(direction)];
}

void TransferContext::CountPayload(TransferDirection direction,
                                   uint64_t bytes) const {
  stats->inflight_bytes[static_cast<size_t>(direction)] += bytes;
}

void TransferContext::CountEnd(TransferDirection direction,
                               const TransferResult& result,
                               uint64_t payload_bytes) const {
  --stats->inflight_transfers[static_cast<size_t>(direction)];
  stats->inflight_bytes[static_cast<size_t>(direction)] -= payload_bytes;
  stats->CountEnd(direction, result);
  if (observer != nullptr) observer->OnTransferEnded(direction, result);
}

}  // namespace sluice::kvtransfer
