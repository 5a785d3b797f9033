#include "worker/handoff/handoff.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kvtransfer/testing/loopback_pair.h"
#include "worker/handoff/first_tokens.h"

namespace sluice::worker {
namespace {

using kvtransfer::LoopbackPair;
using kvtransfer::LoopbackPairOptions;
using kvtransfer::Ticket;
using kvtransfer::TransferResult;
using kvtransfer::TransferState;

// Records what the hand-over tells the engine.
class RecordingEngine final : public Engine {
 public:
  void Run() override {}
  void Stop() override {}
  void Submit(Request, std::shared_ptr<TokenSink>) override {}
  void Cancel(RequestKey key, absl::Status cause) override {
    cancelled[key] = std::move(cause);
  }
  void SetPaused(RequestKey, bool) override {}
  void StartDraining() override {}
  void RemoteReady(RequestKey key, FirstTokens first) override {
    ready[key].push_back(std::move(first));
  }
  void RemoteFailed(RequestKey key, absl::Status cause,
                    bool recompute) override {
    failed[key].push_back({std::move(cause), recompute});
  }
  void RemoteQuarantined(RequestKey key, absl::Status cause,
                         bool recompute) override {
    quarantined[key].push_back({std::move(cause), recompute});
  }
  void RemoteReleased(RequestKey key) override {
    EXPECT_EQ(quarantined.count(key), 1u) << "not before the end";
    ++unfenced[key];
  }
  void ReleaseHeld(RequestKey key) override { ++released[key]; }
  void ResetPrefixCache() override {}
  SnapshotRef<EngineStats> stats() const override {
    return std::make_shared<EngineStats>();
  }

  std::map<RequestKey, absl::Status> cancelled;
  std::map<RequestKey, std::vector<FirstTokens>> ready;
  std::map<RequestKey, std::vector<std::pair<absl::Status, bool>>> failed;
  std::map<RequestKey, std::vector<std::pair<absl::Status, bool>>> quarantined;
  std::map<RequestKey, int> unfenced;  // RemoteReleased
  std::map<RequestKey, int> released;  // ReleaseHeld
};

constexpr RequestKey kKey = 11;
constexpr uint32_t kTokens = 40;
constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kLayers = 2;

// A prefill and a decode side over loopback; the test plays both engines.
class HandoffTest : public testing::Test {
 protected:
  explicit HandoffTest(const LoopbackPairOptions& options = {})
      : pair_(options),
        source_(*pair_.source_engine, kLayers, kBlockTokens),
        target_(*pair_.target_engine, kLayers, kBlockTokens) {
    source_.set_engine(&source_engine_);
    target_.set_engine(&target_engine_);
    source_blocks_ = kvtransfer::Blocks(kTokens, kBlockTokens, 3);
    target_blocks_ = kvtransfer::Blocks(kTokens, kBlockTokens, 9);
    pair_.source.Fill(source_blocks_, kTokens, 7);
  }

  void Reserve(bool recompute = true) {
    target_.decode().Expect(
        kKey,
        {.source = "prefill",
         .deadline_ms = 5000,
         .recompute = recompute,
         .on_ticket = [this](const Ticket& t) { ticket_ = t; },
         .on_transfer = [this](const TransferResult& r) { received_ = r; }});
    target_.OnReserved({.key = kKey,
                        .blocks = target_blocks_,
                        .skip_tokens = 0,
                        .num_tokens = kTokens});
    ASSERT_EQ(ticket_.num_tokens, kTokens);
  }
  void StartPrefill() {
    const absl::Status status = source_.prefill().Start(
        kKey, ticket_, [this](const TransferResult& r) { sent_ = r; });
    ASSERT_TRUE(status.ok()) << status;
  }
  PromptChunk Chunk(uint64_t step, uint32_t t0, uint32_t t1) const {
    return {.key = kKey,
            .step = step,
            .t0 = t0,
            .t1 = t1,
            .num_tokens = kTokens,
            .blocks = source_blocks_};
  }
  void ComputeAll() {
    source_.OnChunkLaunched(Chunk(1, 0, 32));
    source_.OnLayersDone(1, 1);
    pair_.Settle();
    source_.OnChunkDone(kKey, 1);
    source_.OnChunkLaunched(Chunk(2, 32, kTokens));
    source_.OnLayersDone(2, 1);
    source_.OnChunkDone(kKey, 2);
  }
  bool TargetHolds() const {
    return pair_.target.Holds(target_blocks_, 0, kTokens, 7);
  }

  LoopbackPair pair_;
  RecordingEngine source_engine_;
  RecordingEngine target_engine_;
  Handoff source_;
  Handoff target_;
  std::vector<uint32_t> source_blocks_;
  std::vector<uint32_t> target_blocks_;
  Ticket ticket_;
  TransferResult sent_;
  TransferResult received_;
};

FirstTokens First() {
  return {.tokens = {5},
          .logprobs = {{.token = 5,
                        .logprob = -0.5f,
                        .top = {{.token = 5, .logprob = -0.5f}}}}};
}

TEST_F(HandoffTest, KvThenFirstTokensMakeTheDecodeSideReady) {
  Reserve();
  StartPrefill();
  ComputeAll();
  source_.OnFirstTokens(kKey, First());
  pair_.Run(50);
  ASSERT_EQ(target_engine_.ready[kKey].size(), 1u);
  const FirstTokens& first = target_engine_.ready[kKey][0];
  EXPECT_EQ(first.tokens, (std::vector<TokenId>{5}));
  EXPECT_EQ(first.logprobs.at(0).top.at(0).logprob, -0.5f);
  EXPECT_TRUE(TargetHolds());
  EXPECT_EQ(source_engine_.released[kKey], 1);
  EXPECT_TRUE(source_engine_.cancelled.empty());
  EXPECT_EQ(received_.state, TransferState::kCompleted);
  EXPECT_EQ(sent_.state, TransferState::kCompleted);
  EXPECT_TRUE(target_engine_.failed.empty());
}

// The last layer's KV travels while the first token is still being sampled.
TEST_F(HandoffTest, FirstTokensAfterTheTransferCompletedStillArrive) {
  Reserve();
  StartPrefill();
  ComputeAll();
  pair_.Run(50);
  EXPECT_EQ(received_.state, TransferState::kCompleted);
  EXPECT_EQ(source_engine_.released[kKey], 1);
  EXPECT_TRUE(target_engine_.ready.empty());
  source_.OnFirstTokens(kKey, First());
  pair_.Run(50);
  EXPECT_EQ(target_engine_.ready[kKey].size(), 1u);
}

TEST_F(HandoffTest, PrefillThatFailsAfterTheTransferIsRecomputed) {
  Reserve();
  StartPrefill();
  ComputeAll();
  pair_.Run(50);
  source_.OnPrefillFailed(kKey, absl::InternalError("not finite"));
  pair_.Run(50);
  ASSERT_EQ(target_engine_.failed[kKey].size(), 1u);
  EXPECT_TRUE(target_engine_.failed[kKey][0].second);
  EXPECT_EQ(source_engine_.released[kKey], 1);
}

TEST_F(HandoffTest, PrefillThatFailsEndsTheTransferOnBothSides) {
  Reserve(/*recompute=*/false);
  StartPrefill();
  source_.OnChunkLaunched(Chunk(1, 0, 32));
  source_.OnChunkDone(kKey, 1);
  pair_.Run(20);
  source_.OnPrefillFailed(kKey, absl::CancelledError("cancelled"));
  pair_.Run(100);
  EXPECT_EQ(source_engine_.released[kKey], 1);
  ASSERT_EQ(target_engine_.failed[kKey].size(), 1u);
  EXPECT_FALSE(target_engine_.failed[kKey][0].second);
  EXPECT_TRUE(target_engine_.ready.empty());
}

// Its offers would reach the first request's transfer.
TEST_F(HandoffTest, ASecondRequestWithTheSameTicketIsRefused) {
  constexpr RequestKey kOther = 12;
  Reserve();
  StartPrefill();
  int ended = 0;
  const absl::Status status = source_.prefill().Start(
      kOther, ticket_, [&](const TransferResult&) { ++ended; });
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status;
  PromptChunk chunk = Chunk(1, 16, 32);  // beyond what is offered so far
  chunk.key = kOther;
  chunk.blocks = kvtransfer::Blocks(kTokens, kBlockTokens, 20);
  source_.OnChunkLaunched(chunk);
  source_.OnChunkDone(kOther, 1);
  ComputeAll();
  source_.OnFirstTokens(kKey, First());
  pair_.Run(50);
  EXPECT_EQ(target_engine_.ready[kKey].size(), 1u);
  EXPECT_TRUE(TargetHolds());
  EXPECT_EQ(ended, 0);
  EXPECT_EQ(source_engine_.released.count(kOther), 0u);
}

TEST_F(HandoffTest, AWithdrawnReservationIsGivenBackOnce) {
  Reserve();
  StartPrefill();
  source_.OnChunkLaunched(Chunk(1, 0, 32));
  source_.OnLayersDone(1, 1);
  pair_.Run(10);
  target_.OnWithdrawn(kKey, absl::CancelledError("cancelled"));
  pair_.Run(200);
  ASSERT_EQ(target_engine_.failed[kKey].size(), 1u);
  EXPECT_FALSE(target_engine_.failed[kKey][0].second) << "no recompute";
  EXPECT_EQ(source_engine_.released[kKey], 1);
  EXPECT_EQ(source_engine_.cancelled.count(kKey), 1u);
}

TEST_F(HandoffTest, AWithdrawalBetweenKvAndFirstTokensFrees) {
  Reserve();
  StartPrefill();
  ComputeAll();
  pair_.Run(50);
  target_.OnWithdrawn(kKey, absl::DeadlineExceededError("deadline"));
  EXPECT_EQ(target_engine_.failed[kKey].size(), 1u);
  source_.OnFirstTokens(kKey, First());
  pair_.Run(50);
  EXPECT_TRUE(target_engine_.ready.empty());
  EXPECT_EQ(target_engine_.failed[kKey].size(), 1u);
}

TEST_F(HandoffTest, AnExpiredTransferIsRecomputed) {
  Reserve();
  pair_.Run(6000);
  ASSERT_EQ(target_engine_.failed[kKey].size(), 1u);
  EXPECT_EQ(target_engine_.failed[kKey][0].first.code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(target_engine_.failed[kKey][0].second);
}

// Over puts, which land where and when the source wants.
class PutHandoffTest : public HandoffTest {
 protected:
  PutHandoffTest()
      : HandoffTest(
            LoopbackPairOptions{.mode = kvtransfer::TransferMode::kPut}) {}

  // The source's puts are under way, for so long.
  void StartHeld(int64_t ms) {
    pair_.fabric.SetJudge([ms](const kvtransfer::LoopbackEvent& event) {
      kvtransfer::LoopbackFate fate;
      if (event.kind == "put") fate.delay_ms = ms;
      return fate;
    });
    Reserve();
    StartPrefill();
    ComputeAll();
    pair_.Settle();
    ASSERT_FALSE(TargetHolds());
  }
};

TEST_F(PutHandoffTest, ACompletedPutIsReadyAndNeverQuarantined) {
  Reserve();
  StartPrefill();
  ComputeAll();
  source_.OnFirstTokens(kKey, First());
  pair_.Run(50);
  EXPECT_EQ(target_engine_.ready[kKey].size(), 1u);
  EXPECT_TRUE(TargetHolds());
  EXPECT_TRUE(target_engine_.quarantined.empty());
}

TEST_F(PutHandoffTest, BlocksOfAWithdrawnPutComeBackWhenItsSourceHasStopped) {
  StartHeld(1000);
  target_.OnWithdrawn(kKey, absl::CancelledError("cancelled"));
  pair_.Run(100);
  // The request has its end at once; its blocks have none yet.
  ASSERT_EQ(target_engine_.quarantined[kKey].size(), 1u);
  EXPECT_FALSE(target_engine_.quarantined[kKey][0].second);
  EXPECT_TRUE(target_engine_.failed.empty());
  EXPECT_TRUE(target_engine_.unfenced.empty());
  EXPECT_TRUE(received_.quarantined);
  EXPECT_FALSE(TargetHolds()) << "the put has landed already";
  pair_.Run(1500);
  EXPECT_TRUE(TargetHolds()) << "it lands before they are given back";
  EXPECT_EQ(target_engine_.unfenced[kKey], 1);
  EXPECT_EQ(target_engine_.quarantined[kKey].size(), 1u);
  EXPECT_EQ(source_engine_.released[kKey], 1);
}

TEST_F(PutHandoffTest, AnExpiredPutIsRecomputedBesideItsQuarantine) {
  StartHeld(8000);  // beyond the deadline
  pair_.Run(5100);
  ASSERT_EQ(target_engine_.quarantined[kKey].size(), 1u);
  EXPECT_TRUE(target_engine_.quarantined[kKey][0].second) << "recompute";
  EXPECT_TRUE(target_engine_.unfenced.empty());
  pair_.Run(10'000);
  EXPECT_EQ(target_engine_.unfenced[kKey], 1);
  EXPECT_TRUE(target_engine_.failed.empty());
}

TEST(FirstTokensTest, MalformedBytesAreRefused) {
  EXPECT_FALSE(DecodeFirstTokens("").ok());
  EXPECT_FALSE(DecodeFirstTokens("\xff\xff").ok());
  FirstTokens two = First();
  two.tokens.push_back(6);
  EXPECT_FALSE(DecodeFirstTokens(EncodeFirstTokens(two)).ok());
  const auto same = DecodeFirstTokens(EncodeFirstTokens(First()));
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->tokens, First().tokens);
}

}  // namespace
}  // namespace sluice::worker
