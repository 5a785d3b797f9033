// What a decode step may cost besides its arithmetic: how often the threads of
// the pool meet in a layer.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/worker/exec/rig.h"

namespace sluice::worker {
namespace {

// Runs of the pool between one layer's K and V and the next one's.
class RunsPerLayer : public LayerObserver {
 public:
  explicit RunsPerLayer(const kernels::ThreadPool& pool) : pool_(pool) {}

  void OnLayersDone(uint64_t, uint32_t layers_done) override {
    if (layers_done > 1) counts_.push_back(pool_.num_runs() - last_);
    last_ = pool_.num_runs();
  }
  std::vector<int64_t> Take() { return std::exchange(counts_, {}); }

 private:
  const kernels::ThreadPool& pool_;
  int64_t last_ = 0;
  std::vector<int64_t> counts_;
};

struct Case {
  const char* model;
  int seqs;
  int64_t most;  // meetings of the threads in a layer
};

// With few rows some of the work is done by the rank thread alone.
constexpr Case kCases[] = {
    {"llama", 1, 5},   {"llama", 8, 5}, {"llama", 250, 6}, {"qwen2", 1, 5},
    {"qwen2", 250, 6}, {"qwen3", 1, 5}, {"qwen3", 250, 6},
};

class DecodeBarriers : public testing::TestWithParam<Case> {};

TEST_P(DecodeBarriers, AtMostSixInALayer) {
  const Case& c = GetParam();
  Rig rig({.model = SharedModel(TinyModelPath(c.model), false),
           .threads = 2,
           .block_tokens = 16,
           .num_blocks = 300,
           .max_batch_seqs = 256,
           .max_batch_tokens = 1024,
           .digest_logits = false});
  StepRunnerOptions options = rig.runner_options();
  RunsPerLayer counter(*options.threads);
  options.observer = &counter;
  const auto runner = StepRunner::Create(options);
  ASSERT_TRUE(runner.ok()) << runner.status();
  StepPlan plan;
  for (int i = 0; i < c.seqs; ++i) {
    const SequenceKey seq = static_cast<SequenceKey>(i + 1);
    plan.starts.push_back(rig.StartOf(seq, {1, 2, 3}, Greedy(8)));
    plan.rows.push_back({.seq = seq,
                         .kv_before = 0,
                         .tokens = {1, 2, 3},
                         .blocks = {static_cast<BlockId>(i + 1)},
                         .samples = {seq}});
  }
  for (uint32_t step = 0; step < 4; ++step) {
    plan.step = step;
    const absl::StatusOr<StepResult> result = (*runner)->Run(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    const std::vector<int64_t> runs = counter.Take();
    plan.starts.clear();
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      plan.rows[i].kv_before = 3 + step;
      plan.rows[i].tokens = {result->sampled[i].token};
    }
    if (step == 0) continue;  // the prompts
    EXPECT_EQ(static_cast<int64_t>(runs.size()),
              rig.model().config().layers - 1);
    for (int64_t count : runs) {
      EXPECT_GE(count, 4);  // the products at least
      EXPECT_LE(count, c.most);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, DecodeBarriers, testing::ValuesIn(kCases),
                         [](const auto& info) {
                           return std::string(info.param.model) +
                                  std::to_string(info.param.seqs);
                         });

}  // namespace
}  // namespace sluice::worker
