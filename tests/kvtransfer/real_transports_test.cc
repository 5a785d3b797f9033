#include <dirent.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kvtransfer/testing/threaded_pair.h"

namespace sluice::kvtransfer {
namespace {

int NumDescriptors() {
  int count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

class RealTransports : public ::testing::TestWithParam<const char*> {
 protected:
  static KvWorkerSpec Source() {
    return {.name = "prefill",
            .generation = 5,
            .block_tokens = 16,
            .layers = 6,
            .heads = 3,
            .head_dim = 64,
            .num_blocks = 128};
  }
  static KvWorkerSpec Target() {
    KvWorkerSpec spec = Source();
    spec.name = "decode";
    return spec;
  }
};
INSTANTIATE_TEST_SUITE_P(Wires, RealTransports,
                         ::testing::Values("shm", "ucx"));

TEST_P(RealTransports, MovesSequencesOfEqualAndUnequalBlocks) {
  struct Case {
    int source_block, target_block;
    InnerOrder source_order, target_order;
    uint32_t num_tokens, skip;
  };
  constexpr InnerOrder kRows = InnerOrder::kCanonical;
  constexpr InnerOrder kTiles = InnerOrder::kCpuTiles;
  const Case cases[] = {
      {16, 16, kRows, kRows, 1000, 0},   {16, 64, kTiles, kTiles, 1000, 64},
      {64, 16, kTiles, kTiles, 777, 32}, {16, 64, kTiles, kRows, 333, 0},
      {64, 16, kRows, kTiles, 333, 16},
  };
  uint64_t sequence = 1;
  for (const Case& c : cases) {
    KvWorkerSpec source = Source();
    KvWorkerSpec target = Target();
    source.block_tokens = c.source_block;
    source.inner_order = c.source_order;
    target.block_tokens = c.target_block;
    target.inner_order = c.target_order;
    ThreadedPair pair(source, target, GetParam());
    ASSERT_TRUE(pair.Pair().ok());
    ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
    const auto outcome = pair.Transfer(c.num_tokens, c.skip, ++sequence);
    ASSERT_EQ(outcome.received.state, TransferState::kCompleted)
        << outcome.received.status;
    EXPECT_EQ(outcome.sent.state, TransferState::kCompleted);
    EXPECT_EQ(outcome.received.transport, GetParam());
    EXPECT_EQ(outcome.attachment, "first tokens");
    EXPECT_TRUE(pair.target.kv.Holds(pair.target_blocks, c.skip, c.num_tokens,
                                     sequence));
    for (uint32_t i = 0; i < c.skip / c.target_block; ++i) {
      EXPECT_TRUE(pair.target.kv.Untouched(pair.target_blocks[i]));
    }
  }
}

TEST_P(RealTransports, TwoHundredTransfersLeaveNothingBehind) {
  ThreadedPair pair(Source(), Target(), GetParam());
  ASSERT_TRUE(pair.Pair().ok());
  ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
  ASSERT_EQ(pair.Transfer(100, 0, 1).received.state, TransferState::kCompleted);
  const int before = NumDescriptors();
  for (uint64_t i = 0; i < 200; ++i) {
    const uint32_t tokens = 1 + static_cast<uint32_t>(i * 37 % 500);
    const auto outcome = pair.Transfer(tokens, 0, i);
    ASSERT_EQ(outcome.received.state, TransferState::kCompleted)
        << i << " " << outcome.received.status;
    ASSERT_TRUE(pair.target.kv.Holds(pair.target_blocks, 0, tokens, i)) << i;
  }
  EXPECT_EQ(NumDescriptors(), before);
}

TEST_P(RealTransports, EndOfTheSourceIsSeen) {
  ThreadedPair pair(Source(), Target(), GetParam());
  ASSERT_TRUE(pair.Pair().ok());
  ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
  pair.source.thread.reset();  // closes its links
  EXPECT_TRUE(pair.WaitForState(PeerState::kSuspect));
}

TEST_P(RealTransports, PairingAgainAndAgainLeavesNothingBehind) {
  ThreadedPair pair(Source(), Target(), GetParam());
  int before = 0;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(pair.Pair().ok());
    // The earlier pairing is lost in the same command, so up is the new one
    // once a transfer went through it.
    ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
    const auto outcome = pair.Transfer(50, 0, 3);
    if (outcome.received.state != TransferState::kCompleted) {
      EXPECT_EQ(outcome.received.status.code(), absl::StatusCode::kUnavailable);
    }
    if (i == 4) before = NumDescriptors();
  }
  EXPECT_LE(NumDescriptors(), before + 4);
}

}  // namespace
}  // namespace sluice::kvtransfer
