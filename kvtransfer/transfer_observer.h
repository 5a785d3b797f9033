#ifndef KVTRANSFER_TRANSFER_OBSERVER_H_
#define KVTRANSFER_TRANSFER_OBSERVER_H_

#include <cstdint>

#include "kvtransfer/transfer_args.h"
#include "kvtransfer/transfer_plan.h"
#include "kvtransfer/transfer_stats.h"

namespace sluice::kvtransfer {

// What distributions are made of, one call an event. Runs on the transfer
// thread and must not block.
class TransferObserver {
 public:
  virtual ~TransferObserver() = default;

  virtual void OnTransferEnded(TransferDirection direction,
                               const TransferResult& result) = 0;
  // The streams of a transfer were planned.
  virtual void OnPlanned(PlanKind kind, int64_t elapsed_us) = 0;
  // A pair can carry transfers, `elapsed_us` after the offers were exchanged.
  virtual void OnPaired(int64_t elapsed_us) = 0;
  // Blocks of an ended put transfer are the caller's again, `elapsed_us` after
  // it ended.
  virtual void OnReleased(Fence fence, int64_t elapsed_us) = 0;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_OBSERVER_H_
