// Every row of the cancellation table and the hand-over (KV cache
// specification, section 8 and 12.8): one final status, no block left.
#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/engine/scheduler_rig.h"

namespace sluice::worker {
namespace {

constexpr int64_t kSecond = 1000000;

void ExpectClean(const SchedulerRig& rig) {
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  EXPECT_EQ(rig.scheduler->blocks().num_quarantined(), 0);
  const SchedulerCounts counts = rig.scheduler->Counts(rig.now_us);
  EXPECT_EQ(counts.running_seqs + counts.waiting_seqs + counts.held_seqs, 0);
  EXPECT_EQ(counts.waiting_tokens, 0);
  EXPECT_EQ(counts.live_requests, 0);
  EXPECT_EQ(rig.scheduler->NextDeadlineUs(), 0);
}

Request Make(RequestPhase phase, uint32_t prompt, int32_t max_tokens,
             int32_t n = 1) {
  Request request;
  request.phase = phase;
  request.prompt = Tokens(prompt, 1);
  request.sampling.max_tokens = max_tokens;
  request.sampling.n = n;
  return request;
}

TEST(SchedulerCancelTest, BeforeItArrives) {
  SchedulerRig rig({});
  EXPECT_EQ(rig.Cancel(7, absl::CancelledError("early")),
            CancelState::kUnknown);
  rig.Cancel(7, absl::CancelledError("again"));
  rig.now_us += 59 * kSecond;
  Request request = Make(RequestPhase::kBoth, 8, 4);
  request.key = 7;
  rig.Submit(request);
  EXPECT_EQ(*rig.streams[7].status, absl::CancelledError("early"));
  EXPECT_TRUE(rig.Plan().empty());

  rig.Cancel(8);
  rig.now_us += 61 * kSecond;
  request.key = 8;
  rig.Submit(request);
  EXPECT_FALSE(rig.streams[8].status.has_value());  // forgotten
}

TEST(SchedulerCancelTest, EveryStateOfAPlainRequest) {
  SchedulerRig rig(
      {.usable_blocks = 6, .max_batch_seqs = 4, .max_batch_tokens = 16});
  const RequestKey waiting = rig.Submit(Tokens(8, 1), 4);
  EXPECT_EQ(rig.Cancel(waiting), CancelState::kWaiting);
  ExpectClean(rig);

  const RequestKey partial = rig.Submit(Tokens(20, 2), 4);
  rig.Step();
  EXPECT_EQ(rig.Cancel(partial), CancelState::kPartial);
  ExpectClean(rig);

  const RequestKey running = rig.Submit(Tokens(8, 3), 4);
  rig.Step();
  EXPECT_EQ(rig.Cancel(running), CancelState::kRunning);
  EXPECT_EQ(rig.streams[running].usage.completion_tokens, 1);
  ExpectClean(rig);

  const RequestKey launched = rig.Submit(Tokens(20, 4), 4);
  const CommittedStep step = rig.Commit(rig.Plan());
  EXPECT_EQ(rig.Cancel(launched), CancelState::kLaunched);
  EXPECT_EQ(*rig.streams[launched].status, absl::CancelledError("gone"));
  EXPECT_TRUE(rig.Plan().empty());  // left out at once
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 4);
  EXPECT_EQ(rig.Cancel(launched), CancelState::kFinished);
  rig.Retire(*step.plan);
  ExpectClean(rig);

  const RequestKey a = rig.Submit(Tokens(8, 5), 8);
  const RequestKey b = rig.Submit(Tokens(8, 6), 8);
  while (rig.streams[b].preempted == 0) ASSERT_TRUE(rig.Step());
  EXPECT_EQ(rig.Cancel(b), CancelState::kPartial);
  rig.RunAll();
  EXPECT_TRUE(rig.streams[a].status->ok());
  ExpectClean(rig);
  rig.Cancel(a);  // finished: nothing is sent again
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, DeadlinesAreCancels) {
  SchedulerRig rig({.max_batch_seqs = 1});
  Request request = Make(RequestPhase::kBoth, 8, 100);
  request.deadline_us = rig.now_us + 5 * kSecond;
  const RequestKey running = rig.Submit(request);
  request.deadline_us = rig.now_us + 3 * kSecond;
  const RequestKey waiting = rig.Submit(request);
  rig.Step();
  EXPECT_EQ(rig.scheduler->NextDeadlineUs(), rig.now_us + 3 * kSecond);
  rig.now_us += 3 * kSecond - 1;
  EXPECT_TRUE(rig.scheduler->ExpireDeadlines(rig.now_us).empty());
  rig.now_us += 1;
  EXPECT_EQ(rig.scheduler->ExpireDeadlines(rig.now_us),
            std::vector<CancelState>{CancelState::kWaiting});
  rig.now_us += 2 * kSecond;
  rig.scheduler->ExpireDeadlines(rig.now_us);
  rig.Settle();
  for (RequestKey key : {running, waiting}) {
    EXPECT_EQ(rig.streams[key].status->code(),
              absl::StatusCode::kDeadlineExceeded);
  }
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, PrefillHoldsItsBlocksUntilReleased) {
  SchedulerRig rig({.max_batch_tokens = 16});
  Request request = Make(RequestPhase::kPrefill, 20, 50, 2);
  request.sampling.prompt_logprobs = 0;
  const RequestKey key = rig.Submit(request);
  CommittedStep step = rig.Commit(rig.Plan());
  ASSERT_EQ(step.chunks.size(), 1);
  EXPECT_EQ(step.chunks[0].step, step.plan->step);
  EXPECT_EQ(step.chunks[0].t0, 0);
  EXPECT_EQ(step.chunks[0].t1, 16);
  EXPECT_EQ(step.chunks[0].num_tokens, 20);
  EXPECT_EQ(step.chunks[0].blocks.size(), 4);
  rig.Retire(*step.plan);
  EXPECT_EQ(rig.chunks_done.size(), 1);
  EXPECT_TRUE(rig.first_tokens.empty());
  rig.Step();
  EXPECT_EQ(rig.chunks_done.size(), 2);
  ASSERT_EQ(rig.first_tokens[key].tokens.size(), 2);
  EXPECT_FALSE(rig.streams[key].status.has_value());
  EXPECT_TRUE(rig.streams[key].started);
  EXPECT_EQ(rig.streams[key].prompt_logprobs->size(), 19);
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 5);
  EXPECT_EQ(rig.scheduler->Counts(rig.now_us).held_seqs, 1);
  EXPECT_TRUE(rig.Plan().empty());
  rig.scheduler->ReleaseHeld(key);
  rig.Settle();
  EXPECT_TRUE(rig.streams[key].status->ok());
  EXPECT_TRUE(rig.streams[key].tokens[0].empty());
  EXPECT_EQ(rig.streams[key].usage.completion_tokens, 0);
  EXPECT_TRUE(rig.prefill_failed.empty());
  ExpectClean(rig);
  rig.scheduler->ReleaseHeld(key);  // unknown by now
}

// The cancel arrives after `steps` whole steps, or inside the next one.
TEST(SchedulerCancelTest, PrefillCancelledAtEveryBoundary) {
  for (int steps = 0; steps <= 2; ++steps) {
    for (bool launched : {false, true}) {
      for (bool release_first : {false, true}) {
        if (launched && steps == 2) continue;
        SchedulerRig rig({.max_batch_tokens = 16});
        const RequestKey key = rig.Submit(Make(RequestPhase::kPrefill, 20, 50));
        for (int i = 0; i < steps; ++i) rig.Step();
        CommittedStep step;
        if (launched) step = rig.Commit(rig.Plan());
        if (release_first && steps < 2) rig.scheduler->ReleaseHeld(key);
        const CancelState state = rig.Cancel(key);
        EXPECT_EQ(state, launched     ? CancelState::kLaunched
                         : steps == 0 ? CancelState::kWaiting
                         : steps == 1 ? CancelState::kPartial
                                      : CancelState::kHeld);
        EXPECT_EQ(*rig.streams[key].status, absl::CancelledError("gone"));
        EXPECT_EQ(rig.prefill_failed.count(key), 1);
        rig.Cancel(key);
        if (launched) rig.Retire(*step.plan);
        const bool held =
            (launched || steps > 0) && !(release_first && steps < 2);
        EXPECT_EQ(rig.scheduler->blocks().num_active() > 0, held);
        rig.scheduler->ReleaseHeld(key);
        rig.Settle();
        ExpectClean(rig);
      }
    }
  }
}

TEST(SchedulerCancelTest, PrefillReleasedEarlyIsNotHeld) {
  SchedulerRig rig({});
  const RequestKey key = rig.Submit(Make(RequestPhase::kPrefill, 20, 50));
  rig.scheduler->ReleaseHeld(key);
  rig.Step();
  EXPECT_TRUE(rig.streams[key].status->ok());
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, RemotePromptDecodesLikeALocalOne) {
  SchedulerRig local({});
  SchedulerRig rig({});
  const RequestKey plain = local.Submit(Make(RequestPhase::kBoth, 18, 9));
  local.RunAll();
  for (uint32_t round = 0; round < 2; ++round) {
    const RequestKey key = rig.Submit(Make(RequestPhase::kDecode, 18, 9));
    EXPECT_TRUE(rig.Step());
    EXPECT_FALSE(rig.Step());
    ASSERT_EQ(rig.reservations.count(key), 1);
    const RemoteReservation& reserved = rig.reservations[key];
    EXPECT_EQ(reserved.num_tokens, 18);
    EXPECT_EQ(reserved.blocks.size(), 5);
    EXPECT_EQ(reserved.skip_tokens, round == 0 ? 0 : 16);
    EXPECT_EQ(rig.streams[key].cached, round == 0 ? 0 : 16);
    EXPECT_EQ(rig.scheduler->Counts(rig.now_us).remote_seqs, 1);
    rig.CompleteReservations();
    EXPECT_EQ(rig.streams[key].tokens[0].size(), 1);
    rig.RunAll();
    EXPECT_EQ(rig.streams[key].tokens, local.streams[plain].tokens);
    EXPECT_EQ(rig.streams[key].usage.completion_tokens, 9);
    ExpectClean(rig);
  }
}

TEST(SchedulerCancelTest, RemoteChoicesShareThePrompt) {
  SchedulerRig rig({});
  const RequestKey key = rig.Submit(Make(RequestPhase::kDecode, 10, 4, 3));
  rig.Step();
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 3);
  rig.CompleteReservations();
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 3);
  rig.RunAll();
  EXPECT_TRUE(rig.streams[key].status->ok());
  EXPECT_EQ(rig.streams[key].usage.completion_tokens, 12);
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, RemoteFirstTokenMayEndIt) {
  SchedulerRig rig({});
  const RequestKey key = rig.Submit(Make(RequestPhase::kDecode, 10, 1));
  rig.Step();
  rig.CompleteReservations();
  EXPECT_TRUE(rig.streams[key].status->ok());
  EXPECT_EQ(rig.streams[key].endings[0]->reason, FinishReason::kLength);
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, RemoteFailureRecomputesOrEnds) {
  SchedulerRig local({});
  const RequestKey plain = local.Submit(Make(RequestPhase::kBoth, 18, 9));
  local.RunAll();
  SchedulerRig rig({});
  const RequestKey again = rig.Submit(Make(RequestPhase::kDecode, 18, 9));
  rig.Step();
  rig.scheduler->RemoteFailed(again, absl::DataLossError("digest"), true,
                              rig.now_us);
  rig.Settle();
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  rig.RunAll();
  EXPECT_EQ(rig.streams[again].tokens, local.streams[plain].tokens);
  ExpectClean(rig);

  const RequestKey ends = rig.Submit(Make(RequestPhase::kDecode, 18, 9));
  rig.Step();
  rig.scheduler->RemoteFailed(ends, absl::UnavailableError("peer"), false,
                              rig.now_us);
  rig.Settle();
  EXPECT_EQ(*rig.streams[ends].status, absl::UnavailableError("peer"));
  EXPECT_EQ(rig.withdrawn, std::vector<RequestKey>{});
  ExpectClean(rig);

  const RequestKey wrong = rig.Submit(Make(RequestPhase::kDecode, 18, 9, 2));
  rig.Step();
  rig.scheduler->RemoteReady(wrong, {.tokens = {5}, .logprobs = {}},
                             rig.now_us);
  rig.Settle();
  EXPECT_EQ(*rig.streams[wrong].status,
            absl::InternalError("peer sent 1 first tokens for 2 choices"));
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, WithdrawnBlocksWaitForTheTransfersEnd) {
  for (bool ready : {false, true}) {
    SchedulerRig rig({});
    const RequestKey key = rig.Submit(Make(RequestPhase::kDecode, 18, 9, 2));
    rig.Step();
    EXPECT_EQ(rig.Cancel(key), CancelState::kRemote);
    EXPECT_EQ(rig.Cancel(key), CancelState::kFinished);
    EXPECT_EQ(*rig.streams[key].status, absl::CancelledError("gone"));
    EXPECT_EQ(rig.withdrawn, std::vector<RequestKey>{key});
    EXPECT_EQ(rig.scheduler->blocks().num_active(), 5);
    if (ready) {  // it crossed the cancel: dropped
      rig.scheduler->RemoteReady(key, {.tokens = {5, 6}, .logprobs = {}},
                                 rig.now_us);
    }
    rig.scheduler->RemoteFailed(key, absl::CancelledError("stopped"), true,
                                rig.now_us);
    rig.Settle();
    EXPECT_TRUE(rig.Plan().empty());
    ExpectClean(rig);
    EXPECT_EQ(rig.scheduler->blocks().num_cached(), 0);  // never committed
  }
}

// What a source may still write belongs to nobody, while its request goes on
// elsewhere or ends.
TEST(SchedulerCancelTest, QuarantinedBlocksAreNobodysUntilReleased) {
  for (const bool cancelled : {false, true}) {
    SchedulerRig rig({.usable_blocks = 12});
    // Leaves its two full blocks in the prefix cache.
    const RequestKey first = rig.Submit(Make(RequestPhase::kBoth, 18, 9));
    rig.RunAll();
    const std::vector<std::vector<TokenId>> tokens = rig.streams[first].tokens;
    ASSERT_GT(rig.scheduler->blocks().num_cached(), 0);
    const RequestKey key = rig.Submit(Make(RequestPhase::kDecode, 18, 9));
    rig.Step();
    const RemoteReservation reservation = rig.reservations[key];
    const size_t skipped = reservation.skip_tokens / 4;
    ASSERT_GT(skipped, 0u);
    const auto written =
        static_cast<uint32_t>(reservation.blocks.size() - skipped);
    ASSERT_GT(written, 0u);
    if (cancelled) rig.Cancel(key);
    rig.scheduler->RemoteQuarantined(key, absl::UnavailableError("peer"),
                                     !cancelled, rig.now_us);
    rig.reservations.clear();
    rig.Settle();
    const BlockAllocator& blocks = rig.scheduler->blocks();
    EXPECT_EQ(blocks.num_quarantined(), written);
    EXPECT_EQ(blocks.num_active(), 0);
    rig.now_us += 7'000'000;
    EXPECT_EQ(rig.scheduler->Counts(rig.now_us).oldest_quarantine_us,
              7'000'000);
    // As many prompts as the pool takes: no step names such a block.
    for (int i = 0; i < 8; ++i) {
      rig.Submit(Make(RequestPhase::kBoth, 18 + i, 9));
    }
    bool busy = true;
    while (busy) {
      busy = rig.Step();
      for (size_t b = skipped; b < reservation.blocks.size(); ++b) {
        ASSERT_EQ(blocks.state(reservation.blocks[b]),
                  BlockAllocator::State::kQuarantined);
      }
    }
    if (!cancelled) {
      EXPECT_EQ(rig.streams[key].tokens, tokens);
    }
    rig.scheduler->RemoteReleased(key);
    rig.scheduler->RemoteReleased(key);  // no more than once
    rig.Settle();
    EXPECT_EQ(blocks.num_quarantined(), 0);
    EXPECT_EQ(rig.scheduler->Counts(rig.now_us).oldest_quarantine_us, 0);
    ExpectClean(rig);
  }
}

// A pool that is quarantined whole admits nobody; nothing is lost by it.
TEST(SchedulerCancelTest, ARecomputeWaitsForItsOwnQuarantine) {
  SchedulerRig rig({.usable_blocks = 6});
  const RequestKey key = rig.Submit(Make(RequestPhase::kDecode, 18, 3));
  rig.Step();
  ASSERT_EQ(rig.reservations.count(key), 1u);
  rig.scheduler->RemoteQuarantined(key, absl::DataLossError("digest"), true,
                                   rig.now_us);
  rig.Settle();
  EXPECT_FALSE(rig.Step());
  rig.scheduler->RemoteReleased(key);
  rig.RunAll();
  EXPECT_TRUE(rig.streams[key].status->ok());
  EXPECT_EQ(rig.streams[key].tokens.at(0).size(), 3u);
  ExpectClean(rig);
}

TEST(SchedulerCancelTest, ReservationsWaitLikeAnyOther) {
  SchedulerRig rig({.usable_blocks = 10});
  const RequestKey a = rig.Submit(Make(RequestPhase::kDecode, 20, 3));
  const RequestKey b = rig.Submit(Make(RequestPhase::kDecode, 20, 3));
  rig.Step();
  EXPECT_EQ(rig.reservations.size(), 1);  // 10 - 10 is below the watermark
  EXPECT_FALSE(rig.Step());
  rig.CompleteReservations();
  rig.RunAll();
  EXPECT_TRUE(rig.streams[a].status->ok());
  EXPECT_EQ(rig.reservations.count(b), 1);
  rig.CompleteReservations();
  rig.RunAll();
  EXPECT_TRUE(rig.streams[b].status->ok());
  ExpectClean(rig);
}

// A scripted run with every kind of request; each boundary between two
// operations is one place for the cancel of each request.
class Script {
 public:
  Script()
      : rig_({.usable_blocks = 16,
              .max_batch_seqs = 6,
              .max_batch_tokens = 20}) {
    keys_ = {rig_.Submit(Make(RequestPhase::kBoth, 9, 6, 2)),
             rig_.Submit(Make(RequestPhase::kPrefill, 22, 6)),
             rig_.Submit(Make(RequestPhase::kDecode, 14, 6, 2)),
             rig_.Submit(Make(RequestPhase::kBoth, 30, 4))};
  }

  // Runs all of it, cancelling `victim` at boundary `at` (-1: never).
  // Returns the number of boundaries.
  int Run(int victim, int at, bool twice) {
    int n = 0;
    const auto boundary = [&] {
      if (n == at) {
        rig_.Cancel(keys_[victim]);
        if (twice) rig_.Cancel(keys_[victim]);
      }
      return ++n;
    };
    int boundaries = boundary();
    for (int turn = 0; turn < 60; ++turn) {
      const SchedulePlan plan = rig_.Plan();
      if (!plan.empty()) {
        const CommittedStep step = rig_.Commit(plan);
        boundaries = boundary();
        if (!step.plan->rows.empty()) rig_.Retire(*step.plan);
        boundaries = boundary();
      }
      // The hand-over answers after two turns.
      if (turn % 3 == 2) {
        for (RequestKey key : std::exchange(rig_.withdrawn, {})) {
          rig_.scheduler->RemoteFailed(key, absl::CancelledError("stop"), false,
                                       rig_.now_us);
          rig_.reservations.erase(key);
          rig_.Settle();
        }
        rig_.CompleteReservations();
        boundaries = boundary();
        if (rig_.first_tokens.count(keys_[1]) > 0 ||
            rig_.prefill_failed.count(keys_[1]) > 0) {
          rig_.scheduler->ReleaseHeld(keys_[1]);
          rig_.Settle();
          boundaries = boundary();
        }
      }
    }
    return boundaries;
  }

  SchedulerRig rig_;
  std::vector<RequestKey> keys_;
};

TEST(SchedulerCancelTest, EveryBoundaryOfAScript) {
  Script undisturbed;
  const int boundaries = undisturbed.Run(0, -1, false);
  for (RequestKey key : undisturbed.keys_) {
    ASSERT_TRUE(undisturbed.rig_.streams[key].status.has_value());
    EXPECT_TRUE(undisturbed.rig_.streams[key].status->ok());
  }
  ExpectClean(undisturbed.rig_);
  int cancelled = 0;
  for (int at = 0; at < boundaries; ++at) {
    for (int victim = 0; victim < 4; ++victim) {
      Script script;
      script.Run(victim, at, at % 2 == 0);
      for (int i = 0; i < 4; ++i) {
        const Stream& stream = script.rig_.streams[script.keys_[i]];
        ASSERT_TRUE(stream.status.has_value()) << at << " " << victim;
        if (i == victim) {
          cancelled += stream.status->ok() ? 0 : 1;
          continue;
        }
        EXPECT_TRUE(stream.status->ok());
        // The others read what they would have read.
        EXPECT_EQ(stream.tokens,
                  undisturbed.rig_.streams[script.keys_[i]].tokens);
      }
      ExpectClean(script.rig_);
    }
  }
  EXPECT_GT(cancelled, 40);
}

}  // namespace
}  // namespace sluice::worker
