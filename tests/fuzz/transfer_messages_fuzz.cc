// Hostile control messages at both ends of a paired engine: any bytes as
// KvMessage, tickets and Pair requests. Nothing may crash, no block outside a
// ticket may change where only its owner writes, no transfer may end twice.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "kvtransfer/wire/kv_wire.h"
#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

// Takes bytes from the front of the input.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  std::string Bytes(size_t count) {
    count = count < size_ ? count : size_;
    std::string bytes(reinterpret_cast<const char*>(data_), count);
    data_ += count;
    size_ -= count;
    return bytes;
  }
  bool empty() const { return size_ == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

void SendMessage(LoopbackPair& pair, const Ticket& ticket, bool puts,
                 Input& input) {
  const uint8_t flags = input.Byte();
  v1::KvMessage proto;
  if (!proto.ParseFromString(input.Bytes(input.Byte()))) return;
  const bool to_target = flags & 1;
  // Mostly of the open transfer and the right generations, or nothing of it
  // would be reached.
  if (flags & 2) proto.set_transfer_id(ToBytes(ticket.transfer_id));
  if (flags & 4) proto.set_from_generation(1);
  if (flags & 8) proto.set_to_generation(1);
  if (proto.has_claim() && flags & 16) {
    proto.mutable_claim()->set_capability(ToBytes(ticket.capability));
    proto.mutable_claim()->set_worker("prefill");
    proto.mutable_claim()->set_num_blocks(3);
    proto.mutable_claim()->set_manifest_id(pair.source.manifest.manifest_id);
  }
  const absl::StatusOr<ControlMessage> message = FromProto(proto);
  if (!message.ok()) return;
  // In put mode a source is trusted with what it says of its own writes.
  if (puts && (std::holds_alternative<Stopped>(message->body) ||
               std::holds_alternative<Abort>(message->body))) {
    return;
  }
  if (to_target) {
    pair.target_engine->OnMessage("prefill", *message);
  } else {
    pair.source_engine->OnMessage("decode", *message);
  }
}

void SendTicket(LoopbackPair& pair, Input& input) {
  v1::Ticket proto;
  if (!proto.ParseFromString(input.Bytes(input.Byte()))) return;
  if (proto.transfer_id().size() != 16) {
    proto.set_transfer_id(std::string(16, 't'));
    proto.set_capability(std::string(16, 'c'));
    proto.set_worker("decode");
    proto.set_generation(1);
    proto.set_manifest_id(pair.target.manifest.manifest_id);
  }
  const absl::StatusOr<Ticket> ticket = FromProto(proto);
  if (!ticket.ok()) return;
  const absl::Status status =
      pair.source_engine->StartSend({.ticket = *ticket});
  (void)status;
}

void CheckPair(LoopbackPair& pair, Input& input) {
  v1::PairRequest proto;
  if (!proto.ParseFromString(input.Bytes(input.Byte()))) return;
  const absl::StatusOr<PeerOffer> offer = FromProto(proto);
  if (!offer.ok()) return;
  const absl::Status status =
      pair.target_engine->CheckOffer(*offer, proto.to_generation());
  (void)status;
}

void RunInput(Input input) {
  const uint8_t options = input.Byte();
  const bool puts = options & 4;
  LoopbackPair pair({.mode = puts          ? TransferMode::kPut
                             : options & 1 ? TransferMode::kStream
                                           : TransferMode::kPull,
                     .staging_slots = options & 8 ? 2u : 0u});
  const LoopbackPair::Args args{.num_tokens = 40, .skip = 16};
  const Ticket ticket = pair.StartReceive(args);
  if (options & 2) pair.StartSend(ticket);
  pair.Settle();
  for (int i = 0; i < 64 && !input.empty(); ++i) {
    switch (input.Byte() % 8) {
      case 0:
        SendTicket(pair, input);
        break;
      case 1:
        CheckPair(pair, input);
        break;
      case 2:
        pair.Settle();
        break;
      case 3:
        pair.Run(input.Byte());
        break;
      case 4:
        if (options & 2) pair.Offer(ticket, 40, 0, input.Byte() % 2 + 1);
        break;
      default:
        SendMessage(pair, ticket, puts, input);
        break;
    }
  }
  pair.Run(100);
  SLUICE_CHECK(pair.received.ends.size() <= 1);
  SLUICE_CHECK(pair.sent.ends.size() <= 1);
  // ... and with the blocks that a grant or a ticket made it write.
  if (puts) return;
  for (uint32_t b = 0; b < pair.target.spec.num_blocks; ++b) {
    const bool ours = b == pair.target_blocks[1] || b == pair.target_blocks[2];
    SLUICE_CHECK(ours || pair.target.Untouched(b));
  }
}

}  // namespace
}  // namespace sluice::kvtransfer

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::kvtransfer::RunInput(sluice::kvtransfer::Input(data, size));
  return 0;
}
