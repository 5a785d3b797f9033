// Requests whose reader is behind: they stop, nobody else does.
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/engine/scheduler_rig.h"
#include "worker/engine/scheduler.h"

namespace sluice::worker {
namespace {

TEST(SchedulerPauseTest, GetsNoTokensAndContinuesEqually) {
  SchedulerRig rig({});
  const RequestKey a = rig.Submit(Tokens(6, 1), 5);
  const RequestKey b = rig.Submit(Tokens(6, 2), 3);
  EXPECT_EQ(rig.StepRows(), "1[0,6) 2[0,6)");
  rig.scheduler->SetPaused(a, true);
  EXPECT_EQ(rig.StepRows(), "2[6,7)");
  EXPECT_EQ(rig.StepRows(), "2[7,8)");
  EXPECT_EQ(rig.StepRows(), "");
  EXPECT_EQ(rig.streams[a].tokens[0].size(), 1);
  EXPECT_FALSE(rig.streams[a].status.has_value());
  rig.scheduler->SetPaused(a, false);
  EXPECT_EQ(rig.StepRows(), "1[6,7)");
  rig.RunAll();
  EXPECT_EQ(rig.streams[a].tokens[0], Expected(rig, rig.requests[a], 0));
  EXPECT_EQ(rig.streams[b].tokens[0], Expected(rig, rig.requests[b], 0));
  EXPECT_EQ(rig.streams[a].preempted, 0);
}

TEST(SchedulerPauseTest, ItsBlocksGoToWhoeverWaits) {
  SchedulerRig rig({.usable_blocks = 8});
  const RequestKey a = rig.Submit(Tokens(14, 1), 8);
  EXPECT_EQ(rig.StepRows(), "1[0,14)");
  rig.scheduler->SetPaused(a, true);
  // Five blocks, of which four are free.
  const RequestKey b = rig.Submit(Tokens(18, 2), 2);
  EXPECT_EQ(rig.Plan().preempted, std::vector<SequenceKey>{1});
  rig.RunAll();
  EXPECT_TRUE(rig.streams[b].status->ok());
  EXPECT_EQ(rig.streams[a].preempted, 1);
  EXPECT_FALSE(rig.streams[a].status.has_value());
  rig.scheduler->SetPaused(a, false);
  rig.RunAll();
  EXPECT_EQ(rig.streams[a].tokens[0], Expected(rig, rig.requests[a], 0));
  EXPECT_EQ(rig.streams[b].tokens[0], Expected(rig, rig.requests[b], 0));
}

TEST(SchedulerPauseTest, ItsSeatGoesToWhoeverWaits) {
  SchedulerRig rig({.max_batch_seqs = 1});
  const RequestKey a = rig.Submit(Tokens(4, 1), 3);
  EXPECT_EQ(rig.StepRows(), "1[0,4)");
  rig.scheduler->SetPaused(a, true);
  const RequestKey b = rig.Submit(Tokens(4, 2), 1);
  EXPECT_EQ(rig.StepRows(), "2[0,4)");
  EXPECT_TRUE(rig.streams[b].status->ok());
  rig.scheduler->SetPaused(a, false);
  rig.RunAll();
  EXPECT_EQ(rig.streams[a].tokens[0], Expected(rig, rig.requests[a], 0));
}

TEST(SchedulerPauseTest, IsTheFirstVictimAndEndsWhilePaused) {
  SchedulerRig rig({.usable_blocks = 5});
  // Both grow; the older one is paused and loses its blocks to the later.
  const RequestKey a = rig.Submit(Tokens(7, 1), 10);
  const RequestKey b = rig.Submit(Tokens(7, 2), 10);
  EXPECT_EQ(rig.StepRows(), "1[0,7) 2[0,7)");
  rig.scheduler->SetPaused(a, true);
  rig.RunAll();
  EXPECT_EQ(rig.streams[b].tokens[0], Expected(rig, rig.requests[b], 0));
  EXPECT_EQ(rig.streams[b].preempted, 0);
  EXPECT_EQ(rig.streams[a].preempted, 1);
  rig.Cancel(a);
  EXPECT_EQ(rig.streams[a].status->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
}

}  // namespace
}  // namespace sluice::worker
