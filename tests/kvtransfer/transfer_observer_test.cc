// What distributions are made of.
#include "kvtransfer/transfer_observer.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

struct Recorder final : TransferObserver {
  void OnTransferEnded(TransferDirection direction,
                       const TransferResult& result) override {
    directions.push_back(direction);
    results.push_back(result);
  }
  void OnPlanned(PlanKind kind, int64_t elapsed_us) override {
    plans.push_back(kind);
    EXPECT_GE(elapsed_us, 0);
  }
  void OnPaired(int64_t elapsed_us) override { paired.push_back(elapsed_us); }
  void OnReleased(Fence fence, int64_t elapsed_us) override {
    released.emplace_back(fence, elapsed_us);
  }

  std::vector<TransferDirection> directions;
  std::vector<TransferResult> results;
  std::vector<PlanKind> plans;
  std::vector<int64_t> paired;
  std::vector<std::pair<Fence, int64_t>> released;
};

std::array<uint64_t, 2> BytesInFlight(const TransferEngine& engine) {
  const auto stats = engine.Stats();
  return stats->inflight_bytes;
}

TEST(TransferObserver, HearsOfPairPlanAndEndOnBothSides) {
  Recorder source;
  Recorder target;
  LoopbackPair pair({.source_observer = &source, .target_observer = &target});
  EXPECT_EQ(source.paired.size(), 1);
  EXPECT_EQ(target.paired.size(), 1);
  const Ticket ticket = pair.StartReceive({});
  pair.StartSend(ticket);
  pair.Run(20);
  // The prompt is computed in two steps, 30 ms apart.
  pair.Offer(ticket, 16, 0, 2);
  pair.Run(30);
  const uint64_t bytes = BytesInFlight(*pair.target_engine)[1];
  EXPECT_GT(bytes, 0);
  EXPECT_EQ(BytesInFlight(*pair.source_engine)[0], bytes);
  pair.OfferAll(ticket);
  pair.Run(20);
  ASSERT_EQ(source.results.size(), 1);
  ASSERT_EQ(target.results.size(), 1);
  EXPECT_EQ(source.directions[0], TransferDirection::kSend);
  EXPECT_EQ(target.directions[0], TransferDirection::kReceive);
  EXPECT_EQ(source.plans, std::vector<PlanKind>{PlanKind::kSame});
  EXPECT_EQ(target.plans, std::vector<PlanKind>{PlanKind::kSame});
  EXPECT_EQ(target.results[0].state, TransferState::kCompleted);
  // The claim goes out with the first KV; only the rest is exposed.
  EXPECT_GE(source.results[0].claim_us, 20'000);
  EXPECT_GE(source.results[0].elapsed_us, 50'000);
  EXPECT_GE(source.results[0].exposed_us, 0);
  EXPECT_LE(source.results[0].exposed_us, 20'000);
  EXPECT_EQ(target.results[0].exposed_us, -1);
  EXPECT_EQ(target.results[0].bytes, bytes);
  EXPECT_EQ(BytesInFlight(*pair.source_engine)[0], 0);
  EXPECT_EQ(BytesInFlight(*pair.target_engine)[1], 0);
}

TEST(TransferObserver, TellsWhatAPlanHasToDo) {
  for (const auto& [target, kind] :
       std::vector<std::pair<KvWorkerSpec, PlanKind>>{
           {{.name = "decode", .block_tokens = 32}, PlanKind::kReshard},
           {{.name = "decode"}, PlanKind::kSame}}) {
    Recorder recorder;
    LoopbackPair pair({.target = target, .target_observer = &recorder});
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Run(50);
    EXPECT_EQ(recorder.plans, std::vector<PlanKind>{kind});
  }
}

TEST(TransferObserver, HearsWhatEndedAQuarantineAndWhen) {
  for (const Fence fence :
       {Fence::kStopped, Fence::kClose, Fence::kDeregistered, Fence::kDeath}) {
    Recorder recorder;
    LoopbackPair pair({.mode = TransferMode::kPut,
                       .put_fence = fence == Fence::kDeath ? PutFence::kDeath
                                    : fence == Fence::kDeregistered
                                        ? PutFence::kRegion
                                        : PutFence::kClose,
                       .target_observer = &recorder});
    pair.fabric.SetJudge([&](const LoopbackEvent& event) {
      LoopbackFate fate;
      if (event.kind != "put") return fate;
      fate.delay_ms = fence == Fence::kStopped ? 500 : 50'000;
      return fate;
    });
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    pair.target_engine->Cancel(ticket.transfer_id, absl::CancelledError("x"));
    pair.Settle();
    pair.Run(4000);
    if (fence == Fence::kDeath) pair.fabric.Kill("prefill");
    if (fence == Fence::kDeregistered) pair.target_engine->Shutdown();
    pair.Run(6000);
    ASSERT_EQ(recorder.released.size(), 1u) << FenceName(fence);
    EXPECT_EQ(recorder.released[0].first, fence);
    EXPECT_GE(recorder.released[0].second, 500'000);
  }
}

TEST(TransferObserver, OfATransferThatNeverOpenedThereIsNoClaimTime) {
  Recorder recorder;
  LoopbackPair pair({.target_observer = &recorder});
  pair.StartReceive({.deadline_ms = 100});
  pair.Run(200);
  ASSERT_EQ(recorder.results.size(), 1);
  EXPECT_EQ(recorder.results[0].state, TransferState::kExpired);
  EXPECT_EQ(recorder.results[0].claim_us, -1);
  EXPECT_TRUE(recorder.plans.empty());
}

}  // namespace
}  // namespace sluice::kvtransfer
