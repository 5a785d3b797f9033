// One-sided writes of UCX, over memory that both sides map: what put mode
// promises, by a real wire and a real process.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <map>
#include <random>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "kvtransfer/ucx/put_greeting.h"
#include "kvtransfer/ucx/ucx_put_transport.h"
#include "tests/kvtransfer/testing/put_end.h"
#include "tests/kvtransfer/testing/threaded_pair.h"

// What UCX (1.13.1) keeps for good: of refused contexts, and of the worker
// whose link to a dead peer cannot be closed.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libuct.so\nleak:libucs.so\nleak:libucp.so\n";
}

namespace sluice::kvtransfer {
namespace {

KvWorkerSpec Spec(const std::string& name, int block_tokens,
                  InnerOrder order = InnerOrder::kCanonical) {
  return {.name = name,
          .generation = 5,
          .block_tokens = block_tokens,
          .inner_order = order,
          .layers = 3,
          .heads = 3,
          .head_dim = 32,
          .num_blocks = 160};
}

// --- whole transfers --------------------------------------------------------

TEST(UcxPut, MovesSequencesInPlaceAndThroughSlots) {
  constexpr InnerOrder kRows = InnerOrder::kCanonical;
  constexpr InnerOrder kTiles = InnerOrder::kCpuTiles;
  struct Case {
    int source_block, target_block;
    InnerOrder source_order, target_order;
    uint64_t staging_bytes;
    uint32_t num_tokens, skip;
  };
  const Case cases[] = {
      {16, 16, kRows, kRows, 0, 1000, 0},
      {8, 64, kRows, kRows, 0, 500, 64},
      {64, 16, kTiles, kTiles, 0, 777, 32},
      {16, 16, kRows, kRows, 4 << 16, 600, 0},
      {16, 64, kTiles, kRows, 4 << 16, 333, 0},
      {64, 16, kRows, kTiles, 4 << 16, 333, 16},
  };
  uint64_t sequence = 1;
  for (const Case& c : cases) {
    SCOPED_TRACE(sequence);
    KvWorkerSpec target = Spec("decode", c.target_block, c.target_order);
    target.staging_bytes = c.staging_bytes;
    ThreadedPair pair(Spec("prefill", c.source_block, c.source_order), target,
                      "ucx_put");
    ASSERT_TRUE(pair.Pair().ok());
    ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
    const auto outcome = pair.Transfer(c.num_tokens, c.skip, ++sequence);
    ASSERT_EQ(outcome.received.state, TransferState::kCompleted)
        << outcome.received.status;
    EXPECT_EQ(outcome.sent.state, TransferState::kCompleted);
    EXPECT_EQ(outcome.received.transport, "ucx_put");
    EXPECT_EQ(outcome.attachment, "first tokens");
    EXPECT_TRUE(pair.target.kv.Holds(pair.target_blocks, c.skip, c.num_tokens,
                                     sequence));
    for (uint32_t i = 0; i < c.skip / c.target_block; ++i) {
      EXPECT_TRUE(pair.target.kv.Untouched(pair.target_blocks[i]));
    }
  }
}

TEST(UcxPut, HundredTransfersAndTwentyPairings) {
  ThreadedPair pair(Spec("prefill", 16), Spec("decode", 16), "ucx_put");
  for (int pairing = 0; pairing < 20; ++pairing) {
    ASSERT_TRUE(pair.Pair().ok());
    ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
    for (uint64_t i = 0; i < 5; ++i) {
      const uint32_t tokens = 1 + static_cast<uint32_t>(i * 137 % 500);
      const auto outcome = pair.Transfer(tokens, 0, i);
      if (outcome.received.state != TransferState::kCompleted) {
        // The pairing before may be lost in the middle of the first one.
        EXPECT_EQ(i, 0u) << outcome.received.status;
        continue;
      }
      ASSERT_TRUE(pair.target.kv.Holds(pair.target_blocks, 0, tokens, i)) << i;
    }
  }
}

// A wire whose puts are posted when the test says so: a source that was paused
// between deciding to write and writing.
struct Hold {
  std::atomic<bool> held{true};
  std::atomic<bool> posted{false};
};
class HeldPuts final : public Transport {
 public:
  HeldPuts(std::unique_ptr<Transport> wire, Hold* hold)
      : Transport(wire->name(), wire->mode()),
        wire_(std::move(wire)),
        hold_(hold) {
    address_ = wire_->address();
    event_fd_ = wire_->event_fd();
  }
  absl::Status Register(const Region& region) override {
    return wire_->Register(region);
  }
  absl::StatusOr<LinkId> Connect(const LinkArgs& args) override {
    return wire_->Connect(args);
  }
  absl::StatusOr<OperationId> StartWrite(LinkId, const DataHeader&,
                                         std::vector<std::byte>) override {
    return absl::UnimplementedError("put");
  }
  absl::StatusOr<OperationId> StartRead(LinkId, std::vector<ReadPiece>,
                                        ReadSink*) override {
    return absl::UnimplementedError("put");
  }
  absl::StatusOr<OperationId> StartPut(LinkId link,
                                       std::vector<PutPiece> pieces) override {
    const OperationId id = NewId();
    puts_[id] = {link, std::move(pieces), std::nullopt};
    hold_->posted = true;
    return id;
  }
  std::optional<absl::Status> Poll(OperationId id) override {
    Put& put = puts_.at(id);
    if (hold_->held) return std::nullopt;
    if (!put.operation.has_value()) {
      const auto started = wire_->StartPut(put.link, std::move(put.pieces));
      if (!started.ok()) {
        puts_.erase(id);
        return started.status();
      }
      put.operation = *started;
    }
    std::optional<absl::Status> status = wire_->Poll(*put.operation);
    if (status.has_value()) puts_.erase(id);
    return status;
  }
  bool Progress(TransportEvents& events, bool may_sleep) override {
    return wire_->Progress(events, may_sleep);
  }
  void Close(LinkId link) override { wire_->Close(link); }
  void Deregister() override { wire_->Deregister(); }

 private:
  struct Put {
    LinkId link;
    std::vector<PutPiece> pieces;
    std::optional<OperationId> operation;
  };
  const std::unique_ptr<Transport> wire_;
  Hold* const hold_;
  std::map<OperationId, Put> puts_;
};

TEST(UcxPut, ACancelledTransferIsQuarantinedUntilItsPutsHaveEnded) {
  Hold hold;
  ThreadedPair pair(Spec("prefill", 16), Spec("decode", 16), "ucx_put",
                    [&hold](std::unique_ptr<Transport> wire) {
                      return std::make_unique<HeldPuts>(std::move(wire), &hold);
                    });
  ASSERT_TRUE(pair.Pair().ok());
  ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
  std::promise<TransferResult> ended;
  std::promise<void> released;
  std::promise<void> sent;
  ReceiveArgs receive;
  receive.num_tokens = 100;
  receive.on_ended = [&](const TransferId&, const TransferResult& result) {
    ended.set_value(result);
  };
  receive.on_released = [&](const TransferId&) { released.set_value(); };
  SendArgs send;
  send.on_ended = [&](const TransferId&, const TransferResult&) {
    sent.set_value();
  };
  const TransferId id = pair.Start(receive, send, 9);
  while (!hold.posted) std::this_thread::yield();
  pair.target.engine->Cancel(id, absl::CancelledError("x"));
  const TransferResult result = ended.get_future().get();
  ASSERT_TRUE(result.quarantined);
  EXPECT_EQ(result.state, TransferState::kCancelled);
  std::future<void> release = released.get_future();
  EXPECT_EQ(release.wait_for(std::chrono::milliseconds(300)),
            std::future_status::timeout);
  EXPECT_FALSE(pair.target.kv.Holds(pair.target_blocks, 0, 16, 9));
  hold.held = false;  // they land now, in blocks that nobody has
  release.get();
  EXPECT_TRUE(pair.target.kv.Holds(pair.target_blocks, 0, 16, 9));
  sent.get_future().get();
}

// --- the wire alone ---------------------------------------------------------

TEST(UcxPutWire, ChecksRangesAndNeedsAProvenLink) {
  PutEnd source(SharedMemory());
  PutEnd target(SharedMemory());
  const LinkId serving = *source.wire->Connect(Serving());
  ASSERT_TRUE(target.wire->Connect(Dialling(source.wire->address())).ok());
  const std::byte* from = source.memory->base();
  EXPECT_EQ(source.wire->StartPut(serving, {{from, 8, 0}}).status().code(),
            absl::StatusCode::kUnavailable);
  while (source.events.up + target.events.up < 2) {
    ASSERT_TRUE(source.events.down.empty()) << source.events.down[0];
    ASSERT_TRUE(target.events.down.empty()) << target.events.down[0];
    source.wire->Progress(source.events, false);
    target.wire->Progress(target.events, false);
  }
  for (const auto& [size, offset] :
       std::vector<std::pair<uint64_t, uint64_t>>{{8, kRegionBytes - 7},
                                                  {8, ~uint64_t{0} - 3},
                                                  {kRegionBytes + 1, 0},
                                                  {~uint64_t{0}, 1}}) {
    EXPECT_EQ(
        source.wire->StartPut(serving, {{from, size, offset}}).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
  std::memset(source.memory->base(), 7, 64);
  const auto put = source.wire->StartPut(
      serving, {{from, 32, kRegionBytes - 32}, {from, 8, 16}});
  ASSERT_TRUE(put.ok()) << put.status();
  std::optional<absl::Status> status;
  while (!(status = source.wire->Poll(*put)).has_value()) {
    source.wire->Progress(source.events, false);
  }
  EXPECT_TRUE(status->ok()) << *status;
  // Landed and visible, whatever the target did: it did not progress.
  EXPECT_EQ(target.memory->base()[kRegionBytes - 1], std::byte{7});
  EXPECT_EQ(target.memory->base()[16], std::byte{7});
  EXPECT_EQ(target.memory->base()[24], std::byte{0});
}

TEST(UcxPutWire, ASourceThatStandsStillIsGivenUp) {
  FakeClock clock;
  PutEnd source(SharedMemory());
  PutEnd target(SharedMemory(), &clock);
  ASSERT_TRUE(source.wire->Connect(Serving()).ok());
  ASSERT_TRUE(target.wire->Connect(Dialling(source.wire->address())).ok());
  target.wire->Progress(target.events, false);
  clock.AdvanceMs(2999);
  target.wire->Progress(target.events, false);
  EXPECT_TRUE(target.events.down.empty());
  clock.AdvanceMs(1);
  target.wire->Progress(target.events, false);
  ASSERT_EQ(target.events.down.size(), 1u);
  EXPECT_EQ(target.events.down[0],
            absl::UnavailableError("peer source: put handshake took too long"));
}

// The target waits for a first word without helping it to land: it is busy,
// and takes no message, until the word is there or it has waited long enough.
TEST(UcxPutWire, KeysWithoutAFirstWordAreNoLink) {
  FakeClock clock;
  PutEnd source(SharedMemory());
  PutEnd target(SharedMemory(), &clock);
  ASSERT_TRUE(source.wire->Connect(Serving()).ok());
  ASSERT_TRUE(target.wire->Connect(Dialling(source.wire->address())).ok());
  const auto waits = [&target] {
    for (int i = 0; i < 50; ++i) {
      if (!target.wire->Progress(target.events, false)) return false;
    }
    return true;
  };
  while (!waits()) {
    ASSERT_EQ(target.events.up + target.events.down.size(), 0u);
    source.wire->Progress(source.events, false);
  }
  clock.AdvanceMs(999);
  EXPECT_TRUE(waits());
  clock.AdvanceMs(1);
  EXPECT_FALSE(waits());
  ASSERT_EQ(target.events.down.size(), 1u);
  EXPECT_EQ(target.events.down[0],
            absl::UnimplementedError(
                "peer source: its first write did not land by itself"));
}

TEST(UcxPutWire, AWrongTokenIsNobody) {
  PutEnd source(SharedMemory());
  FakeClock clock;
  const std::unique_ptr<UcxPutTransport> target =
      *UcxPutTransport::Create({.context = SharedMemory(), .clock = &clock});
  const LinkId serving = *source.wire->Connect(Serving());
  LinkArgs args = Dialling(source.wire->address());
  args.peer_token[3] ^= 1;
  ASSERT_TRUE(target->Connect(args).ok());
  PutEvents events;
  for (int i = 0; i < 1000; ++i) {
    source.wire->Progress(source.events, false);
    target->Progress(events, false);
  }
  EXPECT_EQ(source.events.up + events.up, 0);
  EXPECT_TRUE(events.down.empty());
  clock.AdvanceMs(3001);
  target->Progress(events, false);
  ASSERT_EQ(events.down.size(), 1u);
  EXPECT_EQ(events.down[0].code(), absl::StatusCode::kUnavailable);
  source.wire->Close(serving);
}

TEST(UcxPutWire, RefusesMemoryItCannotWriteOneSided) {
  PutEnd end(SharedMemory());
  std::vector<std::byte> other(8192);
  Region region = end.memory->region();
  region.base = other.data();
  region.size_bytes = other.size();
  // UCX would register it, and emulate.
  EXPECT_EQ(end.wire->Register(region).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(UcxPutWire, MemoryKindsComeFromThePool) {
  const auto context = SharedMemory();
  alignas(4096) static std::byte bytes[8192];
  Region region{.key = "k", .base = bytes, .size_bytes = sizeof bytes};
  const auto host = context->Map(region);
  ASSERT_TRUE(host.ok()) << host.status();
  context->Unmap(*host);
  region.memory_kind = "tape";
  const absl::Status unknown = context->Map(region).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(unknown.message(),
            "memory kind \"tape\" is none of host, cuda, rocm");
  EXPECT_EQ(*UcsMemoryType("cuda"), UCS_MEMORY_TYPE_CUDA);
  EXPECT_EQ(*UcsMemoryType("rocm"), UCS_MEMORY_TYPE_ROCM);
  region.memory_kind = "rocm";  // no such device over shared memory
  EXPECT_EQ(context->Map(region).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(UcxPutWire, AnAdapterIsThereOrNot) {
  for (const PutWire wire : {PutWire::kRc, PutWire::kDc}) {
    const auto context = UcxPutContext::Create(wire);
    if (!context.ok()) {
      EXPECT_EQ(context.status().code(), absl::StatusCode::kUnavailable);
    }
  }
}

// --- greetings --------------------------------------------------------------

TEST(PutGreetingTest, MalformedBytesAreRefused) {
  const PutGreeting greeting{.step = PutStep::kKey,
                             .token = "token",
                             .pid = 7,
                             .address = "address",
                             .nonce = 9,
                             .probe_address = 10,
                             .probe_key = "pk",
                             .region_address = 11,
                             .region_bytes = 12,
                             .region_key = "rk"};
  const std::string bytes = EncodePutGreeting(greeting);
  EXPECT_EQ(*DecodePutGreeting(bytes), greeting);
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(DecodePutGreeting(bytes.substr(0, n)).ok()) << n;
  }
  EXPECT_FALSE(DecodePutGreeting(bytes + "x").ok());
  std::string step = bytes;
  step[0] = 3;
  EXPECT_FALSE(DecodePutGreeting(step).ok());
  // No bytes make it read outside.
  std::mt19937 random(3);
  for (int i = 0; i < 20'000; ++i) {
    std::string damaged = bytes;
    damaged[random() % damaged.size()] = static_cast<char>(random());
    DecodePutGreeting(damaged).IgnoreError();
  }
}

}  // namespace
}  // namespace sluice::kvtransfer
