// 10^5 single bits that flip on the way, over every mode: none goes unseen.

#include <gtest/gtest.h>

#include <iostream>
#include <random>
#include <string>

#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kTokens = 64;  // whole blocks: every byte is valid

struct Wire {
  const char* name;
  TransferMode mode;
  uint32_t staging_slots = 0;
  int source_block_tokens = 16;
  int target_block_tokens = 16;
  InnerOrder source_order = InnerOrder::kCanonical;
  int flips = 0;
};
constexpr InnerOrder kTiles = InnerOrder::kCpuTiles;
constexpr InnerOrder kRows = InnerOrder::kCanonical;
// Of each mode with equal layouts, other block sizes and another order.
const Wire kWires[] = {
    {"Pull", TransferMode::kPull, 0, 16, 16, kRows, 15'000},
    {"PullConverts", TransferMode::kPull, 0, 16, 32, kTiles, 10'000},
    {"Stream", TransferMode::kStream, 0, 16, 16, kRows, 15'000},
    {"StreamConverts", TransferMode::kStream, 0, 16, 32, kTiles, 10'000},
    {"PutInPlace", TransferMode::kPut, 0, 16, 16, kRows, 15'000},
    {"PutInPlaceResharded", TransferMode::kPut, 0, 16, 32, kRows, 10'000},
    {"PutStaged", TransferMode::kPut, 2, 16, 16, kRows, 15'000},
    {"PutStagedConverts", TransferMode::kPut, 2, 16, 32, kTiles, 10'000},
};

class LoopbackFlips : public ::testing::TestWithParam<Wire> {};
INSTANTIATE_TEST_SUITE_P(Wires, LoopbackFlips, ::testing::ValuesIn(kWires),
                         [](const auto& info) {
                           return std::string(info.param.name);
                         });

TEST_P(LoopbackFlips, EveryOneIsSeen) {
  const Wire& wire = GetParam();
  LoopbackPairOptions options{.mode = wire.mode,
                              .seed = 4242,
                              .staging_slots = wire.staging_slots,
                              .slot_bytes = 4096};
  options.source.block_tokens = wire.source_block_tokens;
  options.source.inner_order = wire.source_order;
  options.target.block_tokens = wire.target_block_tokens;
  LoopbackPair pair(options);
  std::mt19937_64 random(7);
  uint64_t flip_at = UINT64_MAX;  // which payload of the transfer
  uint64_t payloads = 0;
  int flipped = 0;
  pair.fabric.SetJudge([&](const LoopbackEvent& event) {
    const bool payload =
        event.kind == "data" || event.kind == "read" || event.kind == "put";
    LoopbackFate fate;
    fate.flip_bit = payload && payloads == flip_at;
    payloads += payload ? 1 : 0;
    flipped += fate.flip_bit ? 1 : 0;
    return fate;
  });
  const auto transfer = [&](uint64_t sequence) {
    pair.received = {};
    pair.sent = {};
    payloads = 0;
    const LoopbackPair::Args args{.num_tokens = kTokens, .sequence = sequence};
    const Ticket ticket = pair.StartReceive(args);
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    ASSERT_EQ(pair.received.ends.size(), 1u);
    ASSERT_EQ(pair.sent.ends.size(), 1u);
  };
  transfer(1);
  const uint64_t num_payloads = payloads;
  int seen = 0;
  for (int i = 0; i < wire.flips; ++i) {
    flip_at = random() % num_payloads;
    transfer(static_cast<uint64_t>(i % 50));
    ASSERT_EQ(flipped, i + 1);
    ASSERT_EQ(pair.received.code(), absl::StatusCode::kDataLoss)
        << "flip " << i << ": " << pair.received.ends[0].status;
    ASSERT_NE(pair.sent.state(), TransferState::kCompleted);
    ++seen;
    if (i % 100 != 0) continue;
    // And nothing is seen where nothing flipped.
    flip_at = UINT64_MAX;
    transfer(77);
    ASSERT_EQ(pair.received.state(), TransferState::kCompleted)
        << pair.received.ends[0].status;
    ASSERT_TRUE(pair.TargetHolds({.num_tokens = kTokens, .sequence = 77}));
    pair.Run(1500);  // records are forgotten
  }
  std::cout << seen << " of " << flipped << " flips seen, " << wire.name << ", "
            << num_payloads << " payloads a transfer\n";
}

}  // namespace
}  // namespace sluice::kvtransfer
