// Per step: which rows run, with which tokens and blocks (KV cache
// specification, sections 4-7 and 12.5).
#include "worker/engine/scheduler.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/grpc_status.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/scheduler_rig.h"

namespace sluice::worker {
namespace {

using Options = SchedulerRig::Options;

TEST(SchedulerTest, OneRequestRunsToItsEnd) {
  SchedulerRig rig({});
  const RequestKey key = rig.Submit(Tokens(10, 1), 3);
  EXPECT_EQ(rig.StepRows(), "1[0,10)");
  EXPECT_EQ(rig.StepRows(), "1[10,11)");
  EXPECT_EQ(rig.StepRows(), "1[11,12)");
  EXPECT_EQ(rig.StepRows(), "");
  const Stream& stream = rig.streams[key];
  EXPECT_TRUE(stream.status->ok());
  EXPECT_EQ(stream.tokens[0], Expected(rig, rig.requests[key], 0));
  EXPECT_EQ(stream.endings[0]->reason, FinishReason::kLength);
  EXPECT_EQ(stream.usage.prompt_tokens, 10);
  EXPECT_EQ(stream.usage.completion_tokens, 3);
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  // Blocks of 12 valid entries: three full ones stay findable.
  EXPECT_EQ(rig.scheduler->blocks().num_cached(), 3);
}

TEST(SchedulerTest, PrefixHitLeavesAtLeastOneTokenToCompute) {
  for (const auto& [length, rows] :
       std::vector<std::pair<uint32_t, std::string>>{
           {8, "2[4,8)"}, {9, "2[8,9)"}, {13, "2[12,13)"}}) {
    SchedulerRig rig({});
    rig.Submit(Tokens(16, 1), 1);
    rig.RunAll();
    const RequestKey key = rig.Submit(Tokens(length, 1), 1);
    EXPECT_EQ(rig.StepRows(), rows) << length;
    EXPECT_EQ(rig.streams[key].cached, (length - 1) / 4 * 4);
    EXPECT_EQ(rig.streams[key].usage.cached_tokens, (length - 1) / 4 * 4);
    EXPECT_EQ(rig.streams[key].tokens[0], Expected(rig, rig.requests[key], 0));
  }
}

TEST(SchedulerTest, SaltsDoNotShareAndNoneBypasses) {
  SchedulerRig rig({});
  Request request;
  request.prompt = Tokens(16, 1);
  const auto cached = [&rig, &request](const std::string& salt) {
    request.cache_salt = salt;
    const RequestKey key = rig.Submit(request);
    rig.RunAll();
    return rig.streams[key].cached;
  };
  EXPECT_EQ(cached(""), 0);
  EXPECT_EQ(cached(""), 12);
  EXPECT_EQ(cached("a"), 0);
  EXPECT_EQ(cached("a"), 12);
  EXPECT_EQ(cached("none"), 0);
  EXPECT_EQ(cached("none"), 0);
}

// Section 7.4, one scheduler per replica.
TEST(SchedulerTest, BothReplicasChunkInOneStep) {
  const Options options{.max_batch_seqs = 8, .max_batch_tokens = 16};
  SchedulerRig replica0(options);
  SchedulerRig replica1(options);
  replica0.Submit(Tokens(10, 1), 9);
  replica0.Submit(Tokens(12, 2), 9);
  replica1.Submit(Tokens(5, 3), 9);
  replica1.Submit(Tokens(20, 4), 9);
  EXPECT_EQ(replica0.StepRows(), "1[0,10) 2[0,4)");
  EXPECT_EQ(replica1.StepRows(), "1[0,5) 2[0,8)");
  EXPECT_EQ(replica0.StepRows(), "1[10,11) 2[4,12)");
  EXPECT_EQ(replica1.StepRows(), "1[5,6) 2[8,20)");
}

TEST(SchedulerTest, TokenBudgetEdges) {
  const Options options{.max_batch_seqs = 4, .max_batch_tokens = 16};
  SchedulerRig full(options);
  full.Submit(Tokens(16, 1), 2);
  EXPECT_EQ(full.StepRows(), "1[0,16)");
  SchedulerRig over(options);
  over.Submit(Tokens(17, 1), 2);
  EXPECT_EQ(over.StepRows(), "1[0,16)");
  EXPECT_EQ(over.StepRows(), "1[16,17)");
  // A rest of the budget below one block cuts nothing off.
  SchedulerRig rest(options);
  rest.Submit(Tokens(13, 1), 2);
  rest.Submit(Tokens(8, 2), 2);
  EXPECT_EQ(rest.StepRows(), "1[0,13)");
  EXPECT_EQ(rest.StepRows(), "1[13,14) 2[0,8)");
}

TEST(SchedulerTest, ChunkCapAndOnePartialSequence) {
  SchedulerRig rig(
      {.max_batch_seqs = 4, .max_batch_tokens = 64, .chunk_tokens = 8});
  rig.Submit(Tokens(20, 1), 2);
  rig.Submit(Tokens(20, 2), 2);
  EXPECT_EQ(rig.StepRows(), "1[0,8)");
  EXPECT_EQ(rig.StepRows(), "1[8,16)");
  EXPECT_EQ(rig.StepRows(), "1[16,20) 2[0,8)");
  EXPECT_EQ(rig.StepRows(), "1[20,21) 2[8,16)");
}

// The step's own limit of prompt tokens holds for prompts together and leaves
// decoding alone.
TEST(SchedulerTest, PromptTokensOfAStep) {
  SchedulerRig rig({.max_batch_seqs = 8, .max_batch_tokens = 64});
  const auto step = [&rig](uint32_t prompt_tokens) {
    const CommittedStep step =
        rig.Commit(rig.scheduler->Plan(rig.now_us, prompt_tokens));
    rig.Retire(*step.plan);
    return SchedulerRig::Rows(*step.plan);
  };
  rig.Submit(Tokens(6, 1), 9);
  rig.Submit(Tokens(6, 2), 9);
  rig.Submit(Tokens(20, 3), 9);
  EXPECT_EQ(step(12), "1[0,6) 2[0,6)");
  EXPECT_EQ(step(9), "1[6,7) 2[6,7) 3[0,8)");
  EXPECT_EQ(step(3), "1[7,8) 2[7,8)");  // less than a block of 4
  EXPECT_EQ(step(64), "1[8,9) 2[8,9) 3[8,20)");
}

TEST(SchedulerTest, RowBudget) {
  SchedulerRig rig({.max_batch_seqs = 2, .max_batch_tokens = 64});
  for (uint32_t i = 0; i < 3; ++i) rig.Submit(Tokens(4, i), 3);
  EXPECT_EQ(rig.StepRows(), "1[0,4) 2[0,4)");
  EXPECT_EQ(rig.StepRows(), "1[4,5) 2[4,5)");
  EXPECT_EQ(rig.StepRows(), "1[5,6) 2[5,6)");
  EXPECT_EQ(rig.StepRows(), "3[0,4)");
}

// 20 usable blocks: watermark 1.
TEST(SchedulerTest, WatermarkAppliesOnlyBesideOthers) {
  SchedulerRig alone({.usable_blocks = 20, .max_batch_tokens = 128});
  alone.Submit(Tokens(79, 1), 1);  // all 20 blocks
  EXPECT_EQ(alone.StepRows(), "1[0,79)");

  SchedulerRig leaves_one({.usable_blocks = 20, .max_batch_tokens = 128});
  leaves_one.Submit(Tokens(4, 1), 9);
  leaves_one.Submit(Tokens(72, 2), 9);  // 18 blocks beside 1
  EXPECT_EQ(leaves_one.StepRows(), "1[0,4) 2[0,72)");

  SchedulerRig leaves_none({.usable_blocks = 20, .max_batch_tokens = 128});
  leaves_none.Submit(Tokens(4, 1), 2);
  leaves_none.Submit(Tokens(73, 2), 9);  // 19 blocks beside 1
  EXPECT_EQ(leaves_none.StepRows(), "1[0,4)");
  EXPECT_EQ(leaves_none.StepRows(), "1[4,5)");
  EXPECT_EQ(leaves_none.StepRows(), "2[0,73)");  // alone again
}

TEST(SchedulerTest, NoOvertakingBehindOneThatDoesNotFit) {
  SchedulerRig rig({.usable_blocks = 20, .max_batch_tokens = 128});
  rig.Submit(Tokens(4, 1), 3);
  rig.Submit(Tokens(76, 2), 2);
  rig.Submit(Tokens(4, 3), 2);
  EXPECT_EQ(rig.StepRows(), "1[0,4)");
  EXPECT_EQ(rig.StepRows(), "1[4,5)");
}

TEST(SchedulerTest, PrioritiesOrderTheQueue) {
  SchedulerRig rig({.max_batch_seqs = 1, .max_batch_tokens = 64});
  rig.Submit(Tokens(4, 1), 1, 0);
  rig.Submit(Tokens(4, 2), 1, 5);
  rig.Submit(Tokens(4, 3), 1, -5);
  rig.Submit(Tokens(4, 4), 1, 0);
  EXPECT_EQ(rig.StepRows(), "3[0,4)");
  EXPECT_EQ(rig.StepRows(), "1[0,4)");
  EXPECT_EQ(rig.StepRows(), "4[0,4)");
  EXPECT_EQ(rig.StepRows(), "2[0,4)");
}

TEST(SchedulerTest, WaitingAgesPastUrgency) {
  SchedulerRig rig(
      {.max_batch_seqs = 1, .max_batch_tokens = 64, .aging_ms = 1000});
  rig.Submit(Tokens(4, 1), 1, 100);
  rig.now_us += 199 * 1000000ll;
  rig.Submit(Tokens(4, 2), 1, -100);
  EXPECT_EQ(rig.StepRows(), "2[0,4)");  // 100 - 199 is above -100
  rig.now_us += 2 * 1000000ll;
  rig.Submit(Tokens(4, 3), 1, -100);
  EXPECT_EQ(rig.StepRows(), "1[0,4)");  // 100 - 201 is below it
}

// 6 usable blocks: two prompts of 8 grow until there is no room.
TEST(SchedulerTest, LatestAdmittedIsPreemptedAndContinuesEqually) {
  Options tight{.usable_blocks = 6, .max_batch_tokens = 64};
  SchedulerRig rig(tight);
  const RequestKey a = rig.Submit(Tokens(8, 1), 8);
  const RequestKey b = rig.Submit(Tokens(8, 2), 8);
  EXPECT_EQ(rig.StepRows(), "1[0,8) 2[0,8)");
  for (int i = 8; i < 12; ++i) rig.Step();
  EXPECT_EQ(rig.streams[b].preempted, 0);
  const SchedulePlan plan = rig.Plan();  // entry 12 needs a fourth block each
  EXPECT_EQ(plan.preempted, std::vector<SequenceKey>{2});
  rig.RunAll();
  EXPECT_EQ(rig.streams[a].preempted, 0);
  EXPECT_EQ(rig.streams[b].preempted, 1);
  for (RequestKey key : {a, b}) {
    EXPECT_TRUE(rig.streams[key].status->ok());
    EXPECT_EQ(rig.streams[key].tokens[0], Expected(rig, rig.requests[key], 0));
    EXPECT_EQ(rig.streams[key].usage.prompt_tokens, 8);
  }
}

TEST(SchedulerTest, WorsePriorityIsPreemptedBeforeLaterAdmission) {
  SchedulerRig rig({.usable_blocks = 6, .max_batch_tokens = 64});
  const RequestKey a = rig.Submit(Tokens(8, 1), 8, 1);
  rig.StepRows();
  const RequestKey b = rig.Submit(Tokens(8, 2), 8, 0);
  rig.RunAll();
  EXPECT_GE(rig.streams[a].preempted, 1);
  EXPECT_EQ(rig.streams[b].preempted, 0);
  EXPECT_EQ(rig.streams[a].tokens[0], Expected(rig, rig.requests[a], 0));
}

TEST(SchedulerTest, TheNeedyRowItselfMayBeTheVictim) {
  SchedulerRig rig({.usable_blocks = 6, .max_batch_tokens = 64});
  rig.Submit(Tokens(10, 1), 8);  // 3 blocks up to 12 entries
  rig.StepRows();
  rig.Submit(Tokens(8, 2), 8);  // 2 blocks, then a third
  EXPECT_EQ(rig.StepRows(), "1[10,11) 2[0,8)");
  EXPECT_EQ(rig.StepRows(), "1[11,12) 2[8,9)");
  const SchedulePlan plan = rig.Plan();
  EXPECT_EQ(plan.preempted, std::vector<SequenceKey>{2});
  ASSERT_EQ(plan.rows.size(), 1);
  EXPECT_EQ(plan.rows[0].seq, 1);
}

TEST(SchedulerTest, ARowPlannedEarlierGivesItsShareBack) {
  // 1 is oldest but least urgent: planned first, then preempted for 2.
  SchedulerRig rig({.usable_blocks = 6, .max_batch_tokens = 64});
  rig.Submit(Tokens(12, 1), 20, 50);
  rig.StepRows();
  rig.Submit(Tokens(4, 2), 20, 0);
  EXPECT_EQ(rig.StepRows(), "1[12,13) 2[0,4)");  // 4 + 1 blocks
  EXPECT_EQ(rig.StepRows(), "1[13,14) 2[4,5)");  // 4 + 2 blocks
  for (int i = 0; i < 2; ++i) rig.StepRows();
  EXPECT_EQ(SchedulerRig::Rows(*rig.Commit(rig.Plan()).plan), "2[7,8)");
}

TEST(SchedulerTest, PoolSizeClampsTheLength) {
  SchedulerRig rig({.usable_blocks = 3, .max_batch_tokens = 64});
  const RequestKey key = rig.Submit(Tokens(8, 1), 1000);
  rig.RunAll();
  EXPECT_TRUE(rig.streams[key].status->ok());
  EXPECT_EQ(rig.streams[key].endings[0]->reason, FinishReason::kLength);
  EXPECT_EQ(rig.streams[key].tokens[0].size(), 4);  // length 12
}

TEST(SchedulerTest, ModelLengthEndsWithLength) {
  SchedulerRig rig({.model_length = 10});
  const RequestKey key = rig.Submit(Tokens(8, 1), 1000);
  rig.RunAll();
  EXPECT_EQ(rig.streams[key].tokens[0].size(), 2);
  EXPECT_EQ(rig.streams[key].endings[0]->stop_token, -1);
}

TEST(SchedulerTest, AdmissionTexts) {
  struct Case {
    std::string what;
    std::function<void(Request&)> edit;
    absl::Status want;
  };
  const std::vector<Case> cases = {
      {"too long", [](Request& r) { r.prompt = Tokens(40, 1); },
       absl::InvalidArgumentError(
           "prompt of 40 tokens can never fit: limit 39")},
      {"empty", [](Request& r) { r.prompt.clear(); },
       absl::InvalidArgumentError("prompt must hold at least one token")},
      {"outside", [](Request& r) { r.prompt[2] = 1000; },
       absl::InvalidArgumentError(
           "prompt token 1000 at 2 is outside [0, 1000)")},
      {"priority", [](Request& r) { r.priority = 101; },
       absl::InvalidArgumentError("priority must be in [-100, 100], got 101")},
      {"salt", [](Request& r) { r.cache_salt = std::string(257, 's'); },
       absl::InvalidArgumentError("cache_salt has 257 bytes, limit 256")},
      {"deadline", [](Request& r) { r.deadline_us = 1000000; },
       absl::DeadlineExceededError("deadline passed before admission")},
      {"replay",
       [](Request& r) {
         r.replay = {{1}, {1}};
       },
       absl::InvalidArgumentError("replay holds 2 choices, n is 1")},
  };
  for (const Case& c : cases) {
    SchedulerRig rig({.usable_blocks = 10});
    Request request;
    request.prompt = Tokens(8, 1);
    c.edit(request);
    const RequestKey key = rig.Submit(request);
    ASSERT_TRUE(rig.streams[key].status.has_value()) << c.what;
    EXPECT_EQ(*rig.streams[key].status, c.want) << c.what;
    EXPECT_FALSE(rig.streams[key].started);
  }
  SchedulerRig fits({.usable_blocks = 10});
  Request edge;
  edge.prompt = Tokens(39, 1);
  edge.priority = -100;
  edge.cache_salt = std::string(256, 's');
  const RequestKey key = fits.Submit(edge);
  fits.RunAll();
  EXPECT_TRUE(fits.streams[key].status->ok());
}

TEST(SchedulerTest, FullQueueAndDraining) {
  SchedulerRig rig({.max_batch_seqs = 1, .max_waiting_seqs = 2});
  rig.Submit(Tokens(4, 1), 9);
  rig.Submit(Tokens(4, 1), 9);
  const RequestKey refused = rig.Submit(Tokens(4, 1), 9);
  EXPECT_EQ(rig.streams[refused].status->code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rig.streams[refused].status->message(),
            "queue full: 2 sequences wait, limit 2, retry in 250 ms");
  EXPECT_EQ(RetryDelayMs(*rig.streams[refused].status), 250);
  rig.StepRows();  // one runs now
  const RequestKey accepted = rig.Submit(Tokens(4, 1), 9);
  EXPECT_FALSE(rig.streams[accepted].status.has_value());

  SchedulerRig tokens({.max_waiting_tokens = 10});
  tokens.Submit(Tokens(8, 1), 1);
  const RequestKey third = tokens.Submit(Tokens(3, 1), 1);
  EXPECT_EQ(tokens.streams[third].status->message(),
            "queue full: 8 tokens wait, limit 10, retry in 250 ms");

  rig.scheduler->StartDraining();
  const RequestKey late = rig.Submit(Tokens(4, 1), 9);
  EXPECT_EQ(*rig.streams[late].status,
            WithReason(absl::UnavailableError("draining"), "DRAINING"));
  rig.RunAll();
  EXPECT_TRUE(rig.streams[accepted].status->ok());
}

TEST(SchedulerTest, ChoicesShareThePromptAndCopyItsLastBlock) {
  for (uint32_t prompt : {8u, 10u}) {
    SchedulerRig rig({});
    Request request;
    request.prompt = Tokens(prompt, 1);
    request.sampling.n = 3;
    request.sampling.max_tokens = 6;
    request.sampling.seed = 42;
    const RequestKey key = rig.Submit(request);
    CommittedStep step = rig.Commit(rig.Plan());
    ASSERT_EQ(step.plan->rows.size(), 1);
    EXPECT_EQ(step.plan->rows[0].samples.size(), 3);
    ASSERT_EQ(step.plan->starts.size(), 3);
    EXPECT_EQ(step.plan->starts[0].seed, 42);
    EXPECT_EQ(step.plan->starts[1].seed, 0xbdd732262feb6e95u);
    EXPECT_EQ(step.plan->starts[2].seed, 0x28efe333b266f103u);
    rig.Retire(*step.plan);
    EXPECT_EQ(rig.scheduler->blocks().num_active(), (prompt + 3) / 4);
    step = rig.Commit(rig.Plan());
    EXPECT_EQ(step.plan->rows.size(), 3);
    // The last one to write a shared block keeps it.
    EXPECT_EQ(step.plan->copies.size(), prompt % 4 == 0 ? 0 : 2);
    rig.Retire(*step.plan);
    rig.RunAll();
    const uint64_t seeds[] = {42, 0xbdd732262feb6e95u, 0x28efe333b266f103u};
    for (int c = 0; c < 3; ++c) {
      EXPECT_EQ(rig.streams[key].tokens[c], Expected(rig, request, seeds[c]));
    }
    EXPECT_EQ(rig.streams[key].usage.completion_tokens, 18);
    EXPECT_TRUE(rig.streams[key].status->ok());
    EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  }
}

TEST(SchedulerTest, ChoicesUnderPressureKeepTheirStreams) {
  SchedulerRig rig({.usable_blocks = 8, .max_batch_tokens = 64});
  Request request;
  request.prompt = Tokens(10, 1);
  request.sampling.n = 4;
  request.sampling.max_tokens = 16;
  request.sampling.seed = 7;
  const RequestKey key = rig.Submit(request);
  rig.RunAll();
  EXPECT_GE(rig.streams[key].preempted, 1);
  for (uint32_t c = 1; c < 4; ++c) {
    EXPECT_EQ(rig.streams[key].tokens[c].size(), 16);
  }
  EXPECT_EQ(rig.streams[key].tokens[0], Expected(rig, request, 7));
}

TEST(SchedulerTest, ReplayContinuesWhereItWas) {
  SchedulerRig rig({});
  Request request;
  request.prompt = Tokens(9, 1);
  request.sampling.n = 3;
  request.sampling.max_tokens = 8;
  const RequestKey whole = rig.Submit(request);
  rig.RunAll();
  Request again = request;
  const auto& streams = rig.streams[whole].tokens;
  again.replay = {{streams[0].begin(), streams[0].begin() + 3}, streams[1], {}};
  again.replay_ended = {false, true, false};
  const RequestKey key = rig.Submit(again);
  rig.RunAll();
  EXPECT_EQ(rig.streams[key].tokens, streams);
  EXPECT_FALSE(rig.streams[key].endings[1].has_value());  // ended before
  EXPECT_TRUE(rig.streams[key].status->ok());
  EXPECT_EQ(rig.streams[key].usage.prompt_tokens, 9);
  EXPECT_EQ(rig.streams[key].usage.completion_tokens, 24);

  again.replay_ended = {true, true, true};
  const RequestKey done = rig.Submit(again);
  EXPECT_TRUE(rig.streams[done].status->ok());
}

TEST(SchedulerTest, StopsAtEosAndStopTokens) {
  SchedulerRig rig({});
  TokenId forced = 2;
  rig.model.edit = [&forced](SampledToken& token, uint32_t position) {
    if (position == 12) token.token = forced;
  };
  Request request;
  request.prompt = Tokens(10, 1);
  request.sampling.max_tokens = 6;
  const RequestKey eos = rig.Submit(request);
  rig.RunAll();
  EXPECT_EQ(rig.streams[eos].tokens[0].size(), 3);
  EXPECT_EQ(rig.streams[eos].endings[0]->reason, FinishReason::kStop);
  EXPECT_EQ(rig.streams[eos].endings[0]->stop_token, 2);
  EXPECT_EQ(rig.streams[eos].usage.completion_tokens, 3);

  forced = 77;
  request.sampling.stop_token_ids = {76, 77};
  const RequestKey stop = rig.Submit(request);
  rig.RunAll();
  EXPECT_EQ(rig.streams[stop].endings[0]->stop_token, 77);

  forced = 2;
  request.sampling.ignore_eos = true;
  const RequestKey ignored = rig.Submit(request);
  rig.RunAll();
  EXPECT_EQ(rig.streams[ignored].tokens[0].size(), 6);
}

TEST(SchedulerTest, LogprobsTravelWithTheirTokens) {
  SchedulerRig rig({.chunk_tokens = 4});
  Request request;
  request.prompt = Tokens(10, 1);
  request.sampling.max_tokens = 2;
  request.sampling.logprobs = 0;
  request.sampling.prompt_logprobs = 0;
  for (int round = 0; round < 2; ++round) {
    const RequestKey key = rig.Submit(request);
    EXPECT_EQ(rig.StepRows().substr(1), "[0,4)");  // never looked up
    rig.RunAll();
    const Stream& stream = rig.streams[key];
    ASSERT_TRUE(stream.prompt_logprobs.has_value());
    ASSERT_EQ(stream.prompt_logprobs->size(), 9);
    for (size_t i = 0; i < 9; ++i) {
      EXPECT_EQ((*stream.prompt_logprobs)[i].token, request.prompt[i + 1]);
    }
    EXPECT_TRUE(stream.status->ok());
  }
  EXPECT_EQ(rig.scheduler->blocks().num_cached(), 0);  // nor committed
}

TEST(SchedulerTest, BadLogitsEndOneRequest) {
  for (auto [status, want] :
       {std::make_pair(kernels::SampleStatus::kNotFinite,
                       absl::InternalError("logits of request bad at position "
                                           "10 are not finite")),
        std::make_pair(kernels::SampleStatus::kNothingAllowed,
                       absl::FailedPreconditionError(
                           "no token is allowed at position 10"))}) {
    SchedulerRig rig({});
    Request request;
    request.id = "bad";
    request.prompt = Tokens(9, 1);
    request.sampling.max_tokens = 5;
    const RequestKey bad = rig.Submit(request);
    const RequestKey good = rig.Submit(Tokens(9, 2), 5);
    rig.model.edit = [s = status](SampledToken& token, uint32_t position) {
      if (token.seq == 1 && position == 10) token.status = s;
    };
    rig.RunAll();
    EXPECT_EQ(*rig.streams[bad].status, want);
    EXPECT_EQ(rig.streams[bad].tokens[0].size(), 1);
    EXPECT_TRUE(rig.streams[good].status->ok());
    EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  }
}

TEST(SchedulerTest, AFailedStepFailsItsRowsAlone) {
  SchedulerRig rig({.max_batch_seqs = 1});
  const RequestKey a = rig.Submit(Tokens(9, 1), 5);
  const RequestKey b = rig.Submit(Tokens(9, 2), 5);
  const CommittedStep step = rig.Commit(rig.Plan());
  rig.Fail(*step.plan, absl::InternalError("rank 0 is gone"));
  EXPECT_EQ(*rig.streams[a].status, absl::InternalError("rank 0 is gone"));
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  EXPECT_EQ(rig.scheduler->blocks().num_cached(), 0);
  // The model never saw the failed step, so tell it of the sequence.
  rig.model.Run(*step.plan);
  rig.RunAll();
  EXPECT_TRUE(rig.streams[b].status->ok());
}

// Two steps in flight: the second chunk of a prompt beside the first.
TEST(SchedulerTest, DedupUnderOverlapKeepsTheBlockUntilItsStepRetires) {
  SchedulerRig rig({.max_batch_seqs = 8, .max_batch_tokens = 16});
  rig.Submit(Tokens(9, 1), 3);
  rig.Submit(Tokens(9, 1), 3);
  const CommittedStep first = rig.Commit(rig.Plan());
  EXPECT_EQ(SchedulerRig::Rows(*first.plan), "1[0,9) 2[0,4)");
  const CommittedStep second = rig.Commit(rig.Plan());
  EXPECT_EQ(SchedulerRig::Rows(*second.plan), "1[9,10) 2[4,9)");
  const BlockId own = second.plan->rows[1].blocks[0];
  const BlockId shared = first.plan->rows[0].blocks[0];
  rig.Retire(*first.plan);
  const BlockAllocator& blocks = rig.scheduler->blocks();
  EXPECT_EQ(blocks.refs(shared), 2);
  EXPECT_EQ(blocks.state(own), BlockAllocator::State::kActive);
  rig.Retire(*second.plan);
  EXPECT_EQ(blocks.state(own), BlockAllocator::State::kFree);
  rig.RunAll();
  EXPECT_EQ(rig.streams[1].tokens, rig.streams[2].tokens);
}

TEST(SchedulerTest, ALaunchedVictimReleasesWhenItsStepRetires) {
  SchedulerRig rig({.usable_blocks = 13, .max_batch_tokens = 16});
  rig.Submit(Tokens(13, 1), 9);
  EXPECT_EQ(rig.StepRows(), "1[0,13)");
  rig.Submit(Tokens(14, 2), 9);
  EXPECT_EQ(rig.StepRows(), "1[13,14) 2[0,14)");
  const RequestKey c = rig.Submit(Tokens(16, 3), 9);
  const CommittedStep first = rig.Commit(rig.Plan());
  EXPECT_EQ(SchedulerRig::Rows(*first.plan), "1[14,15) 2[14,15) 3[0,12)");
  const CommittedStep second = rig.Commit(rig.Plan());
  EXPECT_EQ(SchedulerRig::Rows(*second.plan), "1[15,16) 2[15,16) 3[12,16)");
  rig.Retire(*first.plan);
  // 1 gets the last block; 2 has to wait for those of 3.
  const SchedulePlan plan = rig.Plan();
  EXPECT_EQ(plan.preempted, std::vector<SequenceKey>{3});
  const CommittedStep third = rig.Commit(plan);
  EXPECT_EQ(SchedulerRig::Rows(*third.plan), "1[16,17)");
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 13);
  EXPECT_TRUE(rig.Plan().empty());  // left out at once
  rig.Retire(*second.plan);
  EXPECT_EQ(rig.streams[c].preempted, 1);
  EXPECT_EQ(rig.streams[c].tokens[0].size(), 1);  // kept
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 9);
  rig.Retire(*third.plan);
  rig.RunAll();
  for (auto& [key, stream] : rig.streams) {
    EXPECT_EQ(stream.tokens[0], Expected(rig, rig.requests[key], 0));
  }
}

TEST(SchedulerTest, AStepFailsWithADrawnRowBehindIt) {
  SchedulerRig rig({});
  const RequestKey key = rig.Submit(Tokens(9, 1), 5);
  const CommittedStep first = rig.Commit(rig.Plan());
  const CommittedStep second = rig.Commit(rig.Plan());
  EXPECT_EQ(SchedulerRig::Rows(*second.plan), "1[9,10)");
  EXPECT_EQ(second.plan->rows[0].tokens, std::vector<TokenId>{kDrawnBefore});
  rig.model.Run(*first.plan);
  rig.Fail(*first.plan, absl::InternalError("rank 0 failed"));
  EXPECT_EQ(rig.streams[key].status, absl::InternalError("rank 0 failed"));
  EXPECT_GT(rig.scheduler->blocks().num_active(), 0);  // until it retires
  rig.Retire(*second.plan);
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  EXPECT_TRUE(rig.streams[key].tokens[0].empty());
}

TEST(SchedulerTest, ReplayedPlansReproduceEveryTable) {
  const Options options{
      .usable_blocks = 14, .max_batch_seqs = 4, .max_batch_tokens = 24};
  SchedulerRig rig(options);
  SchedulerRig again(options);
  for (uint32_t i = 0; i < 6; ++i) {
    for (SchedulerRig* r : {&rig, &again}) {
      Request request;
      request.prompt = Tokens(5 + 3 * i, i / 2);
      request.sampling.n = 1 + static_cast<int32_t>(i) % 2;
      request.sampling.max_tokens = 12;
      r->Submit(request);
    }
  }
  for (int step = 0; step < 300; ++step) {
    const SchedulePlan plan = rig.Plan();
    if (plan.empty()) break;
    const CommittedStep a = rig.Commit(plan);
    const CommittedStep b = again.Commit(plan);
    ASSERT_EQ(rig.scheduler->Tables(), again.scheduler->Tables());
    ASSERT_EQ(SchedulerRig::Rows(*a.plan), SchedulerRig::Rows(*b.plan));
    if (a.plan->rows.empty()) continue;
    rig.Retire(*a.plan);
    again.Retire(*b.plan);
  }
  EXPECT_TRUE(rig.Plan().empty());
  uint32_t preempted = 0;
  for (auto& [key, stream] : rig.streams) {
    EXPECT_TRUE(stream.status->ok());
    preempted += stream.preempted;
  }
  EXPECT_GT(preempted, 0);
}

TEST(SchedulerTest, RefusesLimitsThatCouldStarve) {
  SchedulerOptions options{.limits = {.max_batch_seqs = 8,
                                      .max_batch_tokens = 12,
                                      .block_tokens = 4},
                           .num_blocks = 10,
                           .model_length = 100,
                           .vocab = 10,
                           .eos_ids = {},
                           .kv_fingerprint = std::string(32, 'f')};
  EXPECT_TRUE(Scheduler::Create(options).ok());
  options.limits.max_batch_tokens = 11;
  EXPECT_EQ(Scheduler::Create(options).status(),
            absl::InvalidArgumentError(
                "max_batch_tokens 11 is below 12 = max_batch_seqs 8 + "
                "block_tokens 4: decoding could starve prefill"));
  options.limits.max_batch_seqs = 0;
  EXPECT_EQ(
      Scheduler::Create(options).status(),
      absl::InvalidArgumentError("max_batch_seqs must be positive, got 0"));
}

}  // namespace
}  // namespace sluice::worker
