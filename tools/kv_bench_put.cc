#include "tools/kv_bench_put.h"

#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "tools/kv_bench_worker.h"

namespace sluice::kv_bench {

using kvtransfer::UcxPutContext;
using kvtransfer::UcxPutMemory;
using kvtransfer::UcxPutTransport;

namespace {

constexpr auto kUpLimit = std::chrono::seconds(10);

kvtransfer::LinkArgs ArgsOf(bool is_source) {
  const std::string source_token(32, 's');
  const std::string target_token(32, 't');
  return {.peer = is_source ? "decode" : "prefill",
          .own_token = is_source ? source_token : target_token,
          .peer_token = is_source ? target_token : source_token};
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status().ToString());
  return *std::move(value);
}

}  // namespace

class PutFloor::Events : public kvtransfer::TransportEvents {
 public:
  void OnLinkUp(kvtransfer::LinkId) override { up = true; }
  void OnLinkDown(kvtransfer::LinkId, const absl::Status& status) override {
    Die(status.ToString());
  }
  void OnData(kvtransfer::LinkId, const kvtransfer::DataHeader&,
              absl::Span<const std::byte>) override {}
  bool up = false;
};

PutFloor::PutFloor(uint64_t region_bytes)
    : context_(
          OrDie(UcxPutContext::Create(kvtransfer::PutWire::kSharedMemory))),
      memory_(OrDie(UcxPutMemory::Create(context_, region_bytes))),
      wire_(OrDie(UcxPutTransport::Create(
          {.context = context_, .memory = memory_.get()}))) {
  std::memset(memory_->base(), 0, region_bytes);
  if (absl::Status s = wire_->Register(memory_->region()); !s.ok()) {
    Die(s.ToString());
  }
}

void PutFloor::Serve() { link_ = OrDie(wire_->Connect(ArgsOf(true))); }

void PutFloor::Dial(const std::string& address) {
  kvtransfer::LinkArgs args = ArgsOf(false);
  args.dial = true;
  args.address = address;
  link_ = OrDie(wire_->Connect(args));
}

void PutFloor::AwaitUp() {
  Events events;
  const auto until = std::chrono::steady_clock::now() + kUpLimit;
  while (!events.up) {
    wire_->Progress(events, false);
    if (std::chrono::steady_clock::now() > until) Die("no put link");
  }
}

void PutFloor::Prepare(const std::byte* from, const Blocks& blocks,
                       uint64_t block_bytes) {
  pieces_.clear();
  for (const auto& [source, target] : blocks) {
    pieces_.push_back({from + source, block_bytes, target});
  }
}

void PutFloor::Run() {
  Events events;
  const kvtransfer::OperationId put =
      OrDie(wire_->StartPut(link_, std::move(pieces_)));
  std::optional<absl::Status> status;
  while (!(status = wire_->Poll(put)).has_value()) {
    wire_->Progress(events, false);
  }
  if (!status->ok()) Die(status->ToString());
}

std::string BlocksToBody(const Blocks& blocks, uint64_t block_bytes) {
  std::string body(sizeof block_bytes, '\0');
  std::memcpy(body.data(), &block_bytes, sizeof block_bytes);
  body.append(reinterpret_cast<const char*>(blocks.data()),
              blocks.size() * sizeof blocks[0]);
  return body;
}

uint64_t BlocksFromBody(const std::string& body, Blocks& blocks) {
  uint64_t block_bytes = 0;
  std::memcpy(&block_bytes, body.data(), sizeof block_bytes);
  blocks.resize((body.size() - sizeof block_bytes) / sizeof blocks[0]);
  std::memcpy(static_cast<void*>(blocks.data()),
              body.data() + sizeof block_bytes,
              blocks.size() * sizeof blocks[0]);
  return block_bytes;
}

}  // namespace sluice::kv_bench
