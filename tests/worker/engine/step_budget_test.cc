#include "worker/engine/step_budget.h"

#include <gtest/gtest.h>

namespace sluice::worker {
namespace {

constexpr StepBudgetOptions kOptions = {
    .target_us = 250'000, .block_tokens = 64, .max_batch_tokens = 8192};

// A machine on which a step of `tokens` prompt tokens takes that long beside
// decoding that takes `decode_us` alone.
struct Machine {
  double us_per_token = 0;
  int64_t decode_us = 0;

  int64_t StepUs(uint32_t tokens) const {
    return decode_us + static_cast<int64_t>(us_per_token * tokens);
  }
};

uint32_t AfterSteps(const Machine& machine, bool beside, int steps) {
  StepBudget budget(kOptions);
  for (int i = 0; i < steps; ++i) {
    const uint32_t tokens = budget.PromptTokens(beside);
    budget.OnStep(tokens, beside, machine.StepUs(tokens));
  }
  return budget.PromptTokens(beside);
}

TEST(StepBudget, FirstStepIsOfModestSize) {
  EXPECT_EQ(StepBudget(kOptions).PromptTokens(false), 512u);
  EXPECT_EQ(StepBudget(kOptions).PromptTokens(true), 512u);
}

TEST(StepBudget, AloneAStepTakesFourTimesTheTarget) {
  EXPECT_NEAR(AfterSteps({.us_per_token = 1000}, false, 1), 1000, 1);
  EXPECT_NEAR(AfterSteps({.us_per_token = 3000}, false, 1), 333, 1);
}

// Converges to the tokens that fill what decoding leaves of the target.
TEST(StepBudget, BesideDecodesTheStepTakesTheTarget) {
  const Machine machine = {.us_per_token = 500, .decode_us = 100'000};
  const uint32_t tokens = AfterSteps(machine, true, 20);
  EXPECT_NEAR(tokens, 300, 3);
  EXPECT_NEAR(machine.StepUs(tokens), 250'000, 1500);
}

TEST(StepBudget, StaysWithinABlockAndTheBatch) {
  EXPECT_EQ(AfterSteps({.us_per_token = 100'000}, true, 5), 64u);
  EXPECT_EQ(AfterSteps({.us_per_token = 1, .decode_us = 400'000}, true, 30),
            64u);
  EXPECT_EQ(AfterSteps({.us_per_token = 10}, false, 5), 8192u);
}

TEST(StepBudget, OneKindTellsOfTheOtherUntilThatIsMeasured) {
  StepBudget budget(kOptions);
  budget.OnStep(512, false, 512'000);
  EXPECT_EQ(budget.PromptTokens(true), 250u);
  budget.OnStep(250, true, 500'000);
  EXPECT_EQ(budget.PromptTokens(true), 125u);
  EXPECT_EQ(budget.PromptTokens(false), 1000u);
}

TEST(StepBudget, AFewTokensTellNothing) {
  StepBudget budget(kOptions);
  budget.OnStep(3, false, 30'000);
  EXPECT_EQ(budget.PromptTokens(false), 512u);
}

}  // namespace
}  // namespace sluice::worker
