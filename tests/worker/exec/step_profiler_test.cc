#include "worker/exec/step_profiler.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/worker/exec/rig.h"

namespace sluice::worker {
namespace {

absl::Span<const uint8_t> WeightsOf(const Rig& rig) {
  const PageMemory& memory = rig.model().weights().memory;
  return {memory.data(), static_cast<size_t>(memory.size_bytes())};
}

// Prefills a prompt and decodes: one step a token.
std::vector<std::string> Digests(StepRunner& runner, const Rig& rig,
                                 int count) {
  std::vector<TokenId> tokens = {5, 17, 99, 300, 2};
  std::vector<std::string> digests;
  for (int step = 0; step < count; ++step) {
    StepPlan plan;
    PlanRow row = {.seq = 1};
    if (step == 0) {
      plan.starts.push_back(rig.StartOf(1, tokens, Greedy(count)));
      row.tokens = tokens;
    } else {
      row.kv_before = static_cast<uint32_t>(tokens.size() - 1);
      row.tokens = {tokens.back()};
    }
    row.blocks = rig.Blocks(1, 64);
    row.samples = {1};
    plan.rows = {row};
    const auto result = runner.Run(plan);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) break;
    tokens.push_back(result->sampled[0].token);
    digests.push_back(result->sampled[0].logits_sha256);
  }
  StepPlan end;
  end.ends = {1};
  EXPECT_TRUE(runner.Run(end).ok());
  return digests;
}

TEST(StepProfiler, TellsTheTimeOfTheStepsAskedFor) {
  const Rig rig({.model = SharedModel(TinyModelPath("llama"), false)});
  std::vector<StepProfile> reports;
  StepProfiler profiler(WeightsOf(rig), [&reports](const StepProfile& profile) {
    reports.push_back(profile);
  });
  StepRunnerOptions options = rig.runner_options();
  options.profiler = &profiler;
  const auto runner = StepRunner::Create(options);
  ASSERT_TRUE(runner.ok()) << runner.status();

  const std::vector<std::string> quiet = Digests(**runner, rig, 6);
  EXPECT_TRUE(reports.empty());

  ASSERT_TRUE(profiler.Request(4));
  EXPECT_FALSE(profiler.Request(4));  // one at a time
  EXPECT_EQ(Digests(**runner, rig, 6), quiet);
  ASSERT_EQ(reports.size(), 1u);
  const StepProfile& report = reports[0];
  EXPECT_EQ(report.steps, 4);
  EXPECT_GT(report.read_bytes_per_second, 0);

  const ModelConfig& config = rig.model().config();
  const DecoderLayerWeights& layer = rig.model().weights().layers[0];
  EXPECT_EQ(report.ops.of(StepOp::kEmbedding).calls, 4);
  EXPECT_EQ(report.ops.of(StepOp::kQkv).calls, 4 * config.layers);
  EXPECT_EQ(report.ops.of(StepOp::kQkv).bytes,
            4 * config.layers * layer.qkv.packed_bytes());
  EXPECT_EQ(report.ops.of(StepOp::kAppendKv).calls, 4 * config.layers);
  EXPECT_EQ(report.ops.of(StepOp::kSample).calls, 4);
  EXPECT_EQ(report.ops.of(StepOp::kLogprobs).calls, 0);
  // 5, 6, 7 and 8 entries of K and V in bf16, in every layer.
  EXPECT_EQ(report.ops.of(StepOp::kAttention).bytes,
            config.layers * (5 + 6 + 7 + 8) * 2 * config.kv_width() * 2);
  int64_t nanos = 0;
  for (size_t op = 0; op < kNumStepOps; ++op) {
    nanos += report.ops.of(static_cast<StepOp>(op)).nanos;
  }
  EXPECT_GT(nanos, 0);
  EXPECT_LE(nanos, report.step_nanos + 4000);  // steps count whole us

  EXPECT_TRUE(profiler.Request(1));
  Digests(**runner, rig, 1);
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(reports[1].ops.of(StepOp::kEmbedding).calls, 1);
}

TEST(StepProfiler, ShareOfTheLimit) {
  EXPECT_DOUBLE_EQ(
      ReadShare({.calls = 1, .nanos = 2'000'000, .bytes = 10'000'000}, 1e10),
      0.5);
  EXPECT_DOUBLE_EQ(ReadShare({.calls = 0, .nanos = 0, .bytes = 0}, 1e10), 0);
  EXPECT_DOUBLE_EQ(ReadShare({.calls = 1, .nanos = 5, .bytes = 5}, 0), 0);
}

}  // namespace
}  // namespace sluice::worker
