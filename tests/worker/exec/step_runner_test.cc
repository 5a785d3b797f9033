#include "worker/exec/step_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/sha256.h"
#include "tests/worker/exec/rig.h"
#include "worker/exec/rank_executor.h"

namespace sluice::worker {
namespace {

RigOptions Options() {
  return {.model = SharedModel(TinyModelPath("llama"), false),
          .num_blocks = 40,
          .max_batch_seqs = 8,
          .max_batch_tokens = 256};
}

const std::vector<TokenId>& Prompt() {
  static const auto* prompt =
      new std::vector<TokenId>{5, 17, 99, 300, 2, 2, 45, 511, 0, 76};
  return *prompt;
}

// A step that prefills Prompt() for `seqs` and samples them all.
StepPlan PrefillOf(const Rig& rig, std::vector<SequenceKey> seqs,
                   const SamplingParams& params) {
  StepPlan plan;
  plan.step = 1;
  for (SequenceKey seq : seqs) {
    plan.starts.push_back(rig.StartOf(seq, Prompt(), params));
    plan.starts.back().seed = seq;
  }
  plan.rows = {{.seq = seqs[0],
                .tokens = Prompt(),
                .blocks = rig.Blocks(1, 20),
                .samples = seqs}};
  return plan;
}

TEST(StepRunner, ChoicesOfOnePromptShareItsLogits) {
  Rig rig(Options());
  SamplingParams params;
  params.temperature = 2;
  const auto result = rig.runner().Run(PrefillOf(rig, {1, 2, 3, 4, 5}, params));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->sampled.size(), 5u);
  int different = 0;
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(result->sampled[i].seq, i + 1);
    EXPECT_EQ(result->sampled[i].logits_sha256,
              result->sampled[0].logits_sha256);
    different += result->sampled[i].token != result->sampled[0].token;
  }
  EXPECT_GT(different, 0);
}

TEST(StepRunner, DigestIsThatOfTheLogits) {
  Rig rig(Options());
  const auto result = rig.runner().Run(PrefillOf(rig, {1}, Greedy(4)));
  ASSERT_TRUE(result.ok()) << result.status();
  const std::vector<float> logits =
      rig.LogitsAt(Prompt(), {static_cast<int32_t>(Prompt().size()) - 1});
  EXPECT_EQ(result->sampled[0].logits_sha256,
            ToBytes(Sha256Of({reinterpret_cast<const char*>(logits.data()),
                              logits.size() * sizeof(float)})));
}

TEST(StepRunner, NoDigestUnlessAsked) {
  RigOptions options = Options();
  options.digest_logits = false;
  Rig rig(options);
  const auto result = rig.runner().Run(PrefillOf(rig, {1}, Greedy(4)));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->sampled[0].logits_sha256.empty());
}

TEST(StepRunner, LogprobsOfSampledAndPromptTokens) {
  Rig rig(Options());
  SamplingParams params = Greedy(4);
  params.logprobs = 3;
  StepPlan plan = PrefillOf(rig, {1}, params);
  plan.rows[0].prompt_logprobs = 2;
  const auto result = rig.runner().Run(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  const TokenLogprobs& sampled = result->sampled[0].logprobs;
  EXPECT_EQ(sampled.token, result->sampled[0].token);
  ASSERT_EQ(sampled.top.size(), 3u);
  EXPECT_EQ(sampled.top[0].token, sampled.token);  // greedy
  EXPECT_EQ(sampled.top[0].logprob, sampled.logprob);

  ASSERT_EQ(result->prompt_logprobs.size(), 1u);
  const PromptLogprobs& prompt = result->prompt_logprobs[0];
  EXPECT_EQ(prompt.seq, 1u);
  EXPECT_EQ(prompt.first_position, 1u);
  ASSERT_EQ(prompt.positions.size(), Prompt().size() - 1);
  const int64_t vocab = rig.model().config().vocab;
  for (size_t i = 0; i < prompt.positions.size(); ++i) {
    const TokenLogprobs& at = prompt.positions[i];
    EXPECT_EQ(at.token, Prompt()[i + 1]);
    ASSERT_EQ(at.top.size(), 2u);
    const std::vector<float> logits =
        rig.LogitsAt(Prompt(), {static_cast<int32_t>(i)});
    double sum = 0;
    for (int64_t t = 0; t < vocab; ++t) sum += std::exp(double{logits[t]});
    EXPECT_NEAR(at.logprob, logits[at.token] - std::log(sum), 1e-5);
  }
}

// Cut anywhere, the prompt's logprobs are the same and cover it once.
TEST(StepRunner, PromptLogprobsInChunks) {
  std::vector<TokenLogprobs> whole;
  for (size_t chunk : {Prompt().size(), size_t{3}}) {
    Rig rig(Options());
    std::vector<TokenLogprobs> all;
    for (size_t begin = 0; begin < Prompt().size(); begin += chunk) {
      const size_t end = std::min(begin + chunk, Prompt().size());
      StepPlan plan;
      if (begin == 0) {
        plan.starts = {rig.StartOf(1, Prompt(), Greedy(1))};
      }
      plan.rows = {
          {.seq = 1,
           .kv_before = static_cast<uint32_t>(begin),
           .tokens = {Prompt().begin() + begin, Prompt().begin() + end},
           .blocks = rig.Blocks(1, 20),
           .prompt_logprobs = 0}};
      const auto result = rig.runner().Run(plan);
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_EQ(result->prompt_logprobs.size(), 1u);
      EXPECT_EQ(result->prompt_logprobs[0].first_position, begin + 1);
      for (const TokenLogprobs& at : result->prompt_logprobs[0].positions) {
        all.push_back(at);
      }
    }
    ASSERT_EQ(all.size(), Prompt().size() - 1);
    if (whole.empty()) whole = all;
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(all[i].logprob, whole[i].logprob);
    }
  }
}

TEST(StepRunner, CopiedBlocksContinueLikeTheOriginal) {
  Rig rig(Options());
  const auto first = rig.runner().Run(PrefillOf(rig, {1, 2}, Greedy(4)));
  ASSERT_TRUE(first.ok()) << first.status();
  const TokenId token = first->sampled[0].token;
  const uint32_t size = static_cast<uint32_t>(Prompt().size());
  StepPlan plan;
  plan.copies = {{.from = 1, .to = 9}};
  plan.rows = {{.seq = 1,
                .kv_before = size,
                .tokens = {token},
                .blocks = {1},
                .samples = {1}},
               {.seq = 2,
                .kv_before = size,
                .tokens = {token},
                .blocks = {9},
                .samples = {2}}};
  const auto second = rig.runner().Run(plan);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->sampled[0].logits_sha256, second->sampled[1].logits_sha256);
}

TEST(StepRunner, MinTokensBansEosUntilReached) {
  Rig rig(Options());
  SamplingParams params = Greedy(6);
  params.ignore_eos = false;
  params.min_tokens = 3;
  params.logit_bias = {{.token = 1, .bias = 100}};  // EOS of the model
  const Stream stream =
      rig.Generate({.prompt = Prompt(), .count = 5, .params = params});
  for (int i = 0; i < 3; ++i) EXPECT_NE(stream.tokens[i], 1) << i;
  EXPECT_EQ(stream.tokens[3], 1);
}

TEST(StepRunner, DiscardedTokensAreForgotten) {
  SamplingParams params = Greedy(4);
  params.repetition_penalty = 1.5f;
  Rig rig(Options());
  const auto first = rig.runner().Run(PrefillOf(rig, {1}, params));
  ASSERT_TRUE(first.ok());
  StepPlan again;
  again.rows = PrefillOf(rig, {1}, params).rows;
  const auto second = rig.runner().Run(again);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->sampled[0].token, second->sampled[0].token);
}

TEST(StepRunner, PlansThatCannotRunAreInternalErrors) {
  struct Case {
    const char* text;
    void (*spoil)(StepPlan*);
  };
  const Case cases[] = {
      {"no tokens", [](StepPlan* p) { p->rows[0].tokens.clear(); }},
      {"token 512 is outside [0, 512)",
       [](StepPlan* p) { p->rows[0].tokens[3] = 512; }},
      {"token -1 is outside", [](StepPlan* p) { p->rows[0].tokens[0] = -1; }},
      {"block 0 is outside", [](StepPlan* p) { p->rows[0].blocks = {0}; }},
      {"block 40 is outside", [](StepPlan* p) { p->rows[0].blocks = {40}; }},
      {"0 blocks for 10", [](StepPlan* p) { p->rows[0].blocks.clear(); }},
      {"entries, limit 512", [](StepPlan* p) { p->rows[0].kv_before = 510; }},
      {"samples unknown sequence 77",
       [](StepPlan* p) { p->rows[0].samples = {77}; }},
      {"limits 8 and 256", [](StepPlan* p) { p->rows.resize(9, p->rows[0]); }},
      {"copy of block 1 to 40",
       [](StepPlan* p) { p->copies = {{.from = 1, .to = 40}}; }},
      {"prompt logprobs of an unknown sequence",
       [](StepPlan* p) {
         p->rows[0].seq = 9;
         p->rows[0].prompt_logprobs = 0;
       }},
  };
  Rig rig(Options());
  for (const Case& c : cases) {
    StepPlan plan = PrefillOf(rig, {1}, Greedy(4));
    c.spoil(&plan);
    const absl::Status status = rig.runner().Run(plan).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << c.text;
    EXPECT_TRUE(absl::StrContains(status.message(), c.text)) << status;
  }
  // And it stays usable.
  EXPECT_TRUE(rig.runner().Run(PrefillOf(rig, {1}, Greedy(4))).ok());
}

class RecordingObserver final : public LayerObserver {
 public:
  void OnLayersDone(uint64_t step, uint32_t layers_done) override {
    calls.push_back({step, layers_done});
  }
  std::vector<std::pair<uint64_t, uint32_t>> calls;
};

TEST(RankExecutor, RunsPlansInOrderAndTellsLayers) {
  Rig rig(Options());
  RecordingObserver observer;
  StepRunnerOptions options = rig.runner_options();
  options.observer = &observer;
  auto executor = RankExecutor::Create(options);
  ASSERT_TRUE(executor.ok()) << executor.status();
  StepPlan first = PrefillOf(rig, {1}, Greedy(4));
  StepPlan second;
  second.step = 2;
  second.ends = {1};
  (*executor)->Launch(std::make_shared<const StepPlan>(first));
  (*executor)->Launch(std::make_shared<const StepPlan>(second));
  StepResult result;
  ASSERT_TRUE((*executor)->Wait(&result).ok());
  EXPECT_EQ(result.sampled.size(), 1u);
  EXPECT_GT(result.compute_us, 0);
  ASSERT_TRUE((*executor)->Wait(&result).ok());
  EXPECT_TRUE(result.sampled.empty());
  EXPECT_EQ(observer.calls, (std::vector<std::pair<uint64_t, uint32_t>>{
                                {1, 1}, {1, 2}, {1, 3}, {1, 4}}));
  // The sequence has ended: sampling it again is a plan's mistake.
  first.starts.clear();
  (*executor)->Launch(std::make_shared<const StepPlan>(first));
  EXPECT_EQ((*executor)->Wait(&result).code(), absl::StatusCode::kInternal);
}

// Single tokens of sequence 1 behind its prompt.
StepPlan DecodeOf(const Rig& rig, uint64_t step, TokenId token) {
  const auto prompt = static_cast<uint32_t>(Prompt().size());
  StepPlan plan;
  plan.step = step;
  plan.rows = {{.seq = 1,
                .kv_before = prompt + static_cast<uint32_t>(step) - 2,
                .tokens = {token},
                .blocks = rig.Blocks(1, 20),
                .samples = {1}}};
  return plan;
}

TEST(RankExecutor, ATokenDrawnBeforeIsTheOneOfTheStepBefore) {
  std::vector<TokenId> expected;
  {
    Rig rig(Options());
    auto result = rig.runner().Run(PrefillOf(rig, {1}, Greedy(8)));
    for (uint64_t step = 2; step < 8; ++step) {
      ASSERT_TRUE(result.ok()) << result.status();
      expected.push_back(result->sampled[0].token);
      result = rig.runner().Run(DecodeOf(rig, step, expected.back()));
    }
  }
  Rig rig(Options());
  auto executor = RankExecutor::Create(rig.runner_options());
  ASSERT_TRUE(executor.ok()) << executor.status();
  const auto launch = [&](StepPlan plan) {
    (*executor)->Launch(std::make_shared<const StepPlan>(std::move(plan)));
  };
  launch(PrefillOf(rig, {1}, Greedy(8)));
  StepResult result;
  for (size_t i = 0; i < expected.size(); ++i) {
    launch(DecodeOf(rig, i + 2, kDrawnBefore));
    ASSERT_TRUE((*executor)->Wait(&result).ok());
    EXPECT_EQ(result.sampled[0].token, expected[i]) << i;
  }
  ASSERT_TRUE((*executor)->Wait(&result).ok());

  // Two tokens on: nobody drew the one between.
  launch(DecodeOf(rig, expected.size() + 4, kDrawnBefore));
  const absl::Status gap = (*executor)->Wait(&result);
  EXPECT_EQ(gap.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::StrContains(gap.message(), "wants the one drawn at"))
      << gap;
}

TEST(StepRunner, RefusesAPoolOfAnotherShape) {
  Rig rig(Options());
  auto pool = KvPool::Create({.num_blocks = 4,
                              .block_tokens = 64,
                              .layers = 3,
                              .kv_heads = 2,
                              .head_dim = 16});
  ASSERT_TRUE(pool.ok()) << pool.status();
  StepRunnerOptions options = rig.runner_options();
  options.pool = pool->get();
  EXPECT_EQ(StepRunner::Create(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::worker
