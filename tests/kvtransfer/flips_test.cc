// Bits that flip on real wires: none goes unseen.

#include <gtest/gtest.h>

#include <atomic>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "tests/kvtransfer/testing/hooked_transport.h"
#include "tests/kvtransfer/testing/threaded_pair.h"

namespace sluice::kvtransfer {
namespace {

constexpr int kFlips = 10'000;
constexpr uint32_t kTokens = 64;  // whole blocks: every byte is valid

class Flips : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Wires, Flips, ::testing::Values("shm", "ucx"));

TEST_P(Flips, EveryOneIsSeen) {
  const std::string wire = GetParam();
  KvWorkerSpec source{.name = "prefill",
                      .generation = 5,
                      .layers = 2,
                      .heads = 2,
                      .head_dim = 32};
  KvWorkerSpec target = source;
  target.name = "decode";
  // The next write, or the next read, has one bit flipped.
  std::atomic<bool> armed{false};
  HookedTransport* flipping = nullptr;
  const auto wrap = [&](std::unique_ptr<Transport> transport) {
    auto wrapped = std::make_unique<HookedTransport>(
        std::move(transport),
        [&armed](const std::string& point) {
          return absl::EndsWith(point, ":start") && armed.exchange(false);
        },
        /*seed=*/99);
    flipping = wrapped.get();
    return wrapped;
  };
  // Pull: the reader's; stream: the sender's.
  ThreadedPair pair(source, target, wire,
                    wire == "ucx" ? TransportWrap(wrap) : nullptr,
                    wire == "shm" ? TransportWrap(wrap) : nullptr);
  ASSERT_NE(flipping, nullptr);
  ASSERT_TRUE(pair.Pair().ok());
  ASSERT_TRUE(pair.WaitForState(PeerState::kUp));
  int seen = 0;
  for (int i = 0; i < kFlips; ++i) {
    armed = true;
    const ThreadedPair::Outcome outcome =
        pair.Transfer(kTokens, 0, static_cast<uint64_t>(i));
    ASSERT_EQ(flipping->flips(), i + 1);
    ASSERT_EQ(outcome.received.status.code(), absl::StatusCode::kDataLoss)
        << "flip " << i << ": " << outcome.received.status;
    ASSERT_NE(outcome.sent.state, TransferState::kCompleted);
    ++seen;
    if (i % 100 != 0) continue;
    // And nothing is seen where nothing flipped.
    const ThreadedPair::Outcome whole = pair.Transfer(kTokens, 0, 77);
    ASSERT_EQ(whole.received.state, TransferState::kCompleted)
        << whole.received.status;
    ASSERT_TRUE(pair.target.kv.Holds(pair.target_blocks, 0, kTokens, 77));
  }
  std::cout << seen << " of " << flipping->flips() << " flips over " << wire
            << " seen\n";
}

}  // namespace
}  // namespace sluice::kvtransfer
