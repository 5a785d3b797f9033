#include "worker/cache/memory_planner.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice::worker {
namespace {

// Llama-3.1-8B in bf16 with one EAGLE layer: the worked example of the
// operators specification section 9.
MemoryPlanInput Example() {
  return {
      .target = {.weight_bytes = 2 * 8030261248,
                 .hidden = 4096,
                 .heads = 32,
                 .kv_heads = 8,
                 .head_dim = 128,
                 .ffn = 14336,
                 .vocab = 128256},
      .draft = {.weight_bytes = 2 * 251666432,
                .shared = "embedding, head",
                .features = 1},
      .element_bytes = 2,
      .block_bytes = 33 * 2 * 8 * 128 * 64 * 2,
      .block_tokens = 64,
      .model_tokens = 131072,
      .draft_tokens = 3,
      .max_batch_seqs = 256,
      .max_batch_tokens = 8192,
      .captured_steps = 24,
      .free_bytes = int64_t{79} << 30,
  };
}

TEST(MemoryPlanner, WorkedExampleIsExact) {
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(Example());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->text,
            "free 84825604096 B x 9/10 = budget             76343043686 B  "
            "71.100 GiB\n"
            "target weights                                 16060522496    "
            "14.958\n"
            "draft weights (embedding, head shared)           503332864     "
            "0.469\n"
            "activations 8192 x 110592                        905969664     "
            "0.844\n"
            "logits 1024 x 128256 x 4 + 256 x 128256 x 4      656670720     "
            "0.612\n"
            "hidden states                                     67108864     "
            "0.062\n"
            "step inputs 256 x 2049 x 4                         2098176     "
            "0.002\n"
            "captured steps 24 x 32 MiB                       805306368     "
            "0.750\n"
            "margin                                           536870912     "
            "0.500\n"
            "kv: 6566 blocks x 8650752 B                    56800837632    "
            "52.900   420160 tokens\n"
            "unused                                             4325990     "
            "0.004\n");
  EXPECT_EQ(plan->num_blocks, 6566);
  EXPECT_EQ(plan->min_blocks, 2050);
  EXPECT_EQ(plan->max_blocks, 524545);
  EXPECT_TRUE(plan->warnings.empty());
}

TEST(MemoryPlanner, RefusesWithBudgetWhenTheFixedLinesExceedIt) {
  MemoryPlanInput input = Example();
  input.free_bytes = int64_t{16} << 30;
  const absl::Status status = PlanMemory(input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::StrContains(
      status.message(), "fixed lines exceed the budget by 4075997799 B"))
      << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "15461882265 B")) << status;
}

// Every piece of advice, applied alone, fits; one unit more does not.
TEST(MemoryPlanner, AdviceIsTheLargestThatFits) {
  MemoryPlanInput input = Example();
  input.free_bytes = int64_t{36} << 30;
  const absl::Status status = PlanMemory(input).status();
  ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  struct Option {
    const char* flag;
    int64_t MemoryPlanInput::*field;
  };
  const Option options[] = {
      {"--model.max_context=", &MemoryPlanInput::model_tokens},
      {"--sched.max_batch_seqs=", &MemoryPlanInput::max_batch_seqs},
      {"--sched.max_batch_tokens=", &MemoryPlanInput::max_batch_tokens},
  };
  int found = 0;
  for (const Option& option : options) {
    const std::string text(status.message());
    const size_t at = text.find(option.flag);
    if (at == std::string::npos) continue;
    ++found;
    const int64_t value = std::stoll(text.substr(at + strlen(option.flag)));
    MemoryPlanInput changed = input;
    changed.*option.field = value;
    EXPECT_TRUE(PlanMemory(changed).ok()) << option.flag << value;
    changed.*option.field = value + 1;
    EXPECT_FALSE(PlanMemory(changed).ok()) << option.flag << value + 1;
  }
  EXPECT_GE(found, 1) << status;
}

TEST(MemoryPlanner, OperatorsChoiceReplacesTheBudget) {
  MemoryPlanInput input = Example();
  input.kv_bytes = 3000 * input.block_bytes + 5;
  absl::StatusOr<MemoryPlan> plan = PlanMemory(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 3000);
  input.blocks = 2050;
  plan = PlanMemory(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 2050);
  EXPECT_EQ(plan->kv_tokens, 2049 * 64);
  input.blocks = 2049;
  EXPECT_EQ(PlanMemory(input).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// A prefill worker keeps digests of every block.
TEST(MemoryPlanner, DigestsOfBlocksCount) {
  MemoryPlanInput input = Example();
  input.block_digest_bytes = 33 * (8 * 8 + 2);
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const int64_t each = input.block_bytes + input.block_digest_bytes;
  EXPECT_EQ(plan->num_blocks, (plan->budget_bytes - plan->fixed_bytes) / each);
  EXPECT_LT(plan->num_blocks, 6566);
  EXPECT_TRUE(absl::StrContains(
      plan->text, absl::StrCat("kv digests: ", plan->num_blocks, " x 2178 B")))
      << plan->text;
  const int64_t unused =
      plan->budget_bytes - plan->fixed_bytes - plan->num_blocks * each;
  EXPECT_TRUE(absl::StrContains(plan->text, absl::StrCat(" ", unused, " ")))
      << plan->text;
}

TEST(MemoryPlanner, AnExecutorCountsItsOwnBuffers) {
  MemoryPlanInput input = Example();
  const absl::StatusOr<MemoryPlan> bound = PlanMemory(input);
  ASSERT_TRUE(bound.ok()) << bound.status();
  input.buffer_bytes = [](const MemoryPlanInput& in) {
    return in.max_batch_tokens * 1000 + in.max_batch_seqs;
  };
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const int64_t buffers = 8192 * 1000 + 256;
  EXPECT_TRUE(absl::StrContains(plan->text, "step buffers 8192 tokens, 256"))
      << plan->text;
  EXPECT_TRUE(absl::StrContains(plan->text, absl::StrCat(" ", buffers, " ")));
  EXPECT_FALSE(absl::StrContains(plan->text, "activations"));
  EXPECT_FALSE(absl::StrContains(plan->text, "logits"));
  // Instead of the two lines that stand in the specification's example.
  EXPECT_EQ(plan->fixed_bytes,
            bound->fixed_bytes - 905969664 - 656670720 + buffers);

  // Advice tries other limits, with their buffers.
  input.buffer_bytes = [](const MemoryPlanInput& in) {
    return in.max_batch_tokens > 100 ? int64_t{1} << 40 : 1;
  };
  const absl::Status status = PlanMemory(input).status();
  EXPECT_TRUE(
      absl::StrContains(status.message(), "--sched.max_batch_tokens=100"))
      << status;
}

TEST(MemoryPlanner, NeverMoreThanTheBatchCanUse) {
  MemoryPlanInput input = Example();
  input.max_batch_seqs = 2;
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 2 * 2049 + 1);
}

TEST(MemoryPlanner, WarnsWhenFixedLinesTakeNearlyAll) {
  MemoryPlanInput input = Example();
  input.model_tokens = 64;
  input.free_bytes = 21'800'000'000;
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->warnings.size(), 1u) << plan->text;
}

TEST(MemoryPlanner, RefusesSenselessSizes) {
  for (int64_t MemoryPlanInput::*field :
       {&MemoryPlanInput::block_bytes, &MemoryPlanInput::block_tokens,
        &MemoryPlanInput::model_tokens, &MemoryPlanInput::max_batch_seqs,
        &MemoryPlanInput::max_batch_tokens, &MemoryPlanInput::fraction_den}) {
    for (int64_t value : {int64_t{0}, int64_t{-1}, int64_t{1} << 60}) {
      MemoryPlanInput input = Example();
      input.*field = value;
      EXPECT_EQ(PlanMemory(input).status().code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(FreeHostBytes, IsKnownHere) { EXPECT_GT(FreeHostBytes(), 0); }

}  // namespace
}  // namespace sluice::worker
