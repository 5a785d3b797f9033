#ifndef KVTRANSFER_CONTROL_MESSAGE_H_
#define KVTRANSFER_CONTROL_MESSAGE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "kvtransfer/transfer_id.h"

namespace sluice::kvtransfer {

// Values of the wire enumerations in proto/kv.proto.
enum class TransferState {
  kCompleted = 1,
  kFailed = 2,
  kCancelled = 3,
  kExpired = 4,
};

enum class TransferMode { kPull = 1, kStream = 2, kPut = 3 };

// Why nothing of a put transfer lands any more.
enum class Fence { kStopped, kClose, kDeregistered, kDeath };

const char* FenceName(Fence fence);
const char* TransferStateName(TransferState state);
const char* TransferModeName(TransferMode mode);

// Tokens [t0, t1) x layers [l0, l1); absolute positions, global layers.
struct Rectangle {
  uint32_t t0 = 0;
  uint32_t t1 = 0;
  uint32_t l0 = 0;
  uint32_t l1 = 0;

  bool operator==(const Rectangle&) const = default;
};

// Destination -> source, inside the prefill request (not on the link): the
// blocks that may be written, and the secret that proves the right to.
struct Ticket {
  TransferId transfer_id;
  std::string worker;
  uint64_t generation = 0;
  uint32_t replica = 0;
  std::string manifest_id;       // 32 bytes
  std::vector<uint32_t> blocks;  // from position 0; 0 where skipped
  uint32_t skip_tokens = 0;      // that the destination already has
  uint32_t num_tokens = 0;
  uint32_t remaining_ms = 0;
  Capability capability = {};
};

// The bodies, one per row of kv_transfer.md section 4 that is sent on a link.
struct Claim {
  std::string worker;
  uint32_t replica = 0;
  std::string manifest_id;
  uint32_t num_blocks = 0;  // of the source, from position 0
  Capability capability = {};
};
// A piece of the destination's region that a source gathers a rectangle into.
struct StagingSlot {
  std::string region_key;
  uint64_t offset = 0;  // in the region
  uint64_t size_bytes = 0;

  bool operator==(const StagingSlot&) const = default;
};
// More in one Grant is malformed.
inline constexpr size_t kMaxStagingSlots = 64;

struct Grant {
  TransferMode mode = TransferMode::kPull;
  uint32_t stream_message_bytes = 0;  // kStream
  // kPut; empty: write in place. One credit each.
  std::vector<StagingSlot> slots;
};
struct Refuse {
  TransferState state = TransferState::kFailed;
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string detail;
};
struct RectangleDone {
  uint32_t source_rank = 0;
  uint32_t target_rank = 0;
  uint32_t index = 0;
  Rectangle rectangle;
  bool last = false;
  std::vector<uint64_t> digests;        // one per span
  std::vector<uint32_t> source_blocks;  // pull: ids covering [t0, t1)
  std::optional<uint32_t> slot;         // put: of the Grant; else in place
};
// The slot that held a rectangle may be written again. Names the rectangle, so
// that a repeated one frees nothing else; an Ack beyond it says the same.
struct Credit {
  uint32_t slot = 0;
  uint32_t source_rank = 0;
  uint32_t target_rank = 0;
  uint32_t index = 0;
};
struct Ack {
  uint32_t source_rank = 0;
  uint32_t target_rank = 0;
  uint32_t next_index = 0;  // all below are verified
  uint64_t placed_bytes = 0;
  bool attachment = false;  // the attachment has arrived
};
struct Stop {
  std::string cause;
};
struct Stopped {};
struct Abort {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  bool stopped = false;
  std::string detail;
};
struct Outcome {
  TransferState state = TransferState::kFailed;
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string detail;
};
// Opaque bytes of the layer above (the first tokens): re-sent until
// acknowledged, delivered once.
struct Attachment {
  std::string bytes;
};
struct Heartbeat {};

using ControlBody =
    std::variant<Heartbeat, Claim, Grant, Refuse, RectangleDone, Ack, Stop,
                 Stopped, Abort, Outcome, Attachment, Credit>;

struct ControlMessage {
  TransferId transfer_id;  // zero for a heartbeat
  uint64_t from_generation = 0;
  uint64_t to_generation = 0;
  ControlBody body;
};

// "claim", "grant", ...: for metrics and logs.
const char* KindName(const ControlBody& body);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_CONTROL_MESSAGE_H_
