// Indices without drafts (speculation specification, section 2.3) and the
// pure rules of a batch.
#include "worker/engine/sequence.h"

#include "gtest/gtest.h"
#include "worker/engine/batch_policy.h"

namespace sluice::worker {
namespace {

TEST(SequenceTest, PromptIsChecked) {
  const std::vector<TokenId> good = {0, 9};
  EXPECT_TRUE(CheckPrompt(good, 10).ok());
  EXPECT_EQ(CheckPrompt({}, 10),
            absl::InvalidArgumentError("prompt must hold at least one token"));
  const std::vector<TokenId> high = {0, 10};
  EXPECT_EQ(CheckPrompt(high, 10),
            absl::InvalidArgumentError("prompt token 10 at 1 is outside [0, "
                                       "10)"));
  const std::vector<TokenId> low = {-1};
  EXPECT_EQ(CheckPrompt(low, 10),
            absl::InvalidArgumentError("prompt token -1 at 0 is outside [0, "
                                       "10)"));
}

void Expect(const Sequence& seq, uint32_t length, uint32_t entries,
            uint32_t launched) {
  EXPECT_EQ(seq.length(), length);
  EXPECT_EQ(seq.target_entries(), entries);
  EXPECT_EQ(seq.launched_entries(), launched);
  EXPECT_TRUE(seq.CheckInvariants().ok());
}

TEST(SequenceTest, TransitionTable) {
  Sequence seq(1, {10, 11, 12, 13, 14, 15}, 6);
  Expect(seq, 6, 0, 0);
  seq.SkipTo(2);  // prefix hit
  Expect(seq, 6, 2, 2);
  seq.LaunchTo(4);  // chunk
  Expect(seq, 6, 2, 4);
  EXPECT_EQ(seq.in_flight(), 1);
  seq.LaunchTo(6);  // last chunk, launched before the first retires
  EXPECT_EQ(seq.in_flight(), 2);
  EXPECT_TRUE(seq.caught_up());
  seq.Retire(4, true);
  Expect(seq, 6, 4, 6);
  EXPECT_TRUE(seq.TakeEmitted().empty());
  seq.Retire(6, true);
  seq.Append(20);
  Expect(seq, 7, 6, 6);  // one real token has no KV: the last
  EXPECT_EQ(seq.generated(), 1);
  seq.LaunchTo(7);  // verify(0, 0)
  seq.Retire(7, true);
  seq.Append(21);
  Expect(seq, 8, 7, 7);
  EXPECT_EQ(seq.TakeEmitted().size(), 2);
}

TEST(SequenceTest, ARowBehindTheStepThatDrawsItsToken) {
  Sequence seq(1, {10, 11}, 2);
  seq.LaunchTo(2);
  seq.LaunchTo(3);  // the token at 2 is being drawn
  Expect(seq, 2, 0, 3);
  EXPECT_EQ(seq.in_flight(), 2);
  EXPECT_TRUE(seq.caught_up());
  EXPECT_DEATH(seq.LaunchTo(4), "CHECK failed");
  seq.Retire(2, true);
  seq.Append(20);
  Expect(seq, 3, 2, 3);
  seq.LaunchTo(4);
  seq.Retire(3, true);
  seq.Append(21);
  Expect(seq, 4, 3, 4);
  seq.Retire(4, true);
  seq.Append(22);
  Expect(seq, 5, 4, 4);
}

TEST(SequenceTest, EveryTokenIsEmittedOnceAlsoAcrossPreemption) {
  Sequence seq(1, {10, 11, 12, 13}, 3);  // one token generated elsewhere
  EXPECT_EQ(seq.generated(), 1);
  EXPECT_TRUE(seq.TakeEmitted().empty());
  seq.LaunchTo(4);
  seq.Retire(4, true);
  seq.Append(20);
  seq.Preempt();
  Expect(seq, 5, 0, 0);
  EXPECT_EQ(seq.prompt_tokens(), 3);
  seq.LaunchTo(5);  // replay feeds [0, 5) and continues at position 5
  seq.Retire(5, true);
  seq.Append(21);
  const auto emitted = seq.TakeEmitted();
  EXPECT_EQ(std::vector<TokenId>(emitted.begin(), emitted.end()),
            (std::vector<TokenId>{20, 21}));
  EXPECT_TRUE(seq.TakeEmitted().empty());
}

TEST(SequenceTest, AnUnfinishedStepLeavesNoEntries) {
  Sequence seq(1, {10, 11}, 2);
  seq.LaunchTo(2);
  seq.Retire(2, false);
  EXPECT_EQ(seq.target_entries(), 0);
}

TEST(SequenceDeathTest, BrokenTransitionsAbort) {
  EXPECT_DEATH(Sequence(1, {}, 0), "CHECK failed");
  EXPECT_DEATH(Sequence(1, {1, 2}, 2).SkipTo(2), "CHECK failed");
  EXPECT_DEATH(Sequence(1, {1, 2}, 2).LaunchTo(0), "CHECK failed");
  EXPECT_DEATH(Sequence(1, {1, 2}, 2).LaunchTo(3), "CHECK failed");
  EXPECT_DEATH(Sequence(1, {1, 2}, 2).Append(3), "CHECK failed");
  Sequence seq(1, {1, 2}, 2);
  seq.LaunchTo(1);
  EXPECT_DEATH(seq.Preempt(), "CHECK failed");
}

TEST(BatchPolicyTest, Watermark) {
  EXPECT_EQ(WatermarkBlocks(1), 1);
  EXPECT_EQ(WatermarkBlocks(15), 1);
  EXPECT_EQ(WatermarkBlocks(20), 1);
  EXPECT_EQ(WatermarkBlocks(21), 2);
  EXPECT_EQ(WatermarkBlocks(100), 5);
  EXPECT_EQ(WatermarkBlocks(1000), 50);
}

TEST(BatchPolicyTest, Chunks) {
  EXPECT_EQ(ChunkTokens(10, 10, 4), 10);
  EXPECT_EQ(ChunkTokens(11, 10, 4), 8);
  EXPECT_EQ(ChunkTokens(11, 3, 4), 0);
  EXPECT_EQ(ChunkTokens(3, 3, 4), 3);
}

TEST(BatchPolicyTest, Aging) {
  EXPECT_EQ(EffectivePriority(5, 9'999'999, 10000), 5);
  EXPECT_EQ(EffectivePriority(5, 10'000'000, 10000), 4);
  EXPECT_EQ(EffectivePriority(100, 2'000'000'000, 10000), -100);
}

TEST(BatchPolicyTest, ReservationWithoutDrafts) {
  EXPECT_EQ(BlocksFor(0, 4), 0);
  EXPECT_EQ(BlocksFor(5, 4), 2);
  EXPECT_EQ(BlocksFor(8, 4), 2);
  EXPECT_EQ(BlocksFor(128, 64), 2);
}

}  // namespace
}  // namespace sluice::worker
