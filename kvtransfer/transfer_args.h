#ifndef KVTRANSFER_TRANSFER_ARGS_H_
#define KVTRANSFER_TRANSFER_ARGS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvtransfer/control_message.h"

namespace sluice::kvtransfer {

// How a transfer ended, on this side.
struct TransferResult {
  TransferState state = TransferState::kFailed;
  absl::Status status;     // OK when kCompleted; code by section 10
  uint64_t bytes = 0;      // KV bytes placed (receive) or offered (send)
  uint64_t copies = 0;     // after merging (pull), or messages (stream)
  int64_t elapsed_us = 0;  // since StartReceive() or StartSend()
  int64_t claim_us = -1;   // of those, until it was open; -1: it never was
  // Of a completed send: how long it went on after all KV was offered, so what
  // the computation did not hide. Else -1.
  int64_t exposed_us = -1;
  std::string transport;  // "shm", "ucx", "loopback"; empty: none chosen
  // Put: the source may still write into the blocks; they are the caller's
  // again when on_released runs.
  bool quarantined = false;
};

using OnTransferEnded =
    std::function<void(const TransferId&, const TransferResult&)>;
using OnBlocksReleased = std::function<void(const TransferId&)>;
using OnAttachment =
    std::function<void(const TransferId&, absl::StatusOr<std::string>)>;

// All callbacks run on the transfer thread and must not block.
struct ReceiveArgs {
  uint32_t replica = 0;  // of ours
  // Our blocks from position 0: ceil(num_tokens / block_tokens) ids; entries
  // wholly below skip_tokens are ignored.
  std::vector<uint32_t> blocks;
  uint32_t skip_tokens = 0;  // multiple of block_tokens, < num_tokens
  uint32_t num_tokens = 0;
  uint32_t deadline_ms = 30000;  // 100 .. 600000, from now
  std::string expected_source;   // worker name; empty: any paired one
  // Exactly once. When it runs, no operation of ours touches the blocks any
  // more: they belong to the caller again, with valid contents only if
  // kCompleted; but see `quarantined`.
  OnTransferEnded on_ended;
  // Optional; put mode: after an on_ended with `quarantined` set, once, when no
  // write of the source can land in the blocks any more; not if the process
  // ends before that is known. Without it on_ended waits for that instead.
  OnBlocksReleased on_released;
  // Optional; at most once: the attachment, before or after on_ended; or,
  // after a kCompleted transfer, an error when it can no longer come
  // (kDeadlineExceeded, kUnavailable).
  OnAttachment on_attachment;
};

struct SendArgs {
  Ticket ticket;         // as received; its remaining_ms starts now
  uint32_t replica = 0;  // of ours
  // Exactly once; from then on the source blocks may be unpinned.
  OnTransferEnded on_ended;
};

// Says that the KV of a rectangle is final in our memory. Per layer, offers
// leave no gap: t0 is at most what was offered before, or skip_tokens. What
// was offered already is ignored. `blocks` are the ids that hold tokens
// [t0, t1): entry i is block t0 / block_tokens + i. They stay pinned until
// on_ended. Layers are global.
struct RectangleOffer {
  TransferId transfer_id;
  Rectangle rectangle;
  std::vector<uint32_t> blocks;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_ARGS_H_
