// Host cost of a step and of blocks. To be held against: planning 256 decode
// rows <= 200 us, allocating and releasing 10^4 blocks <= 2 ms.
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "benchmark/benchmark.h"
#include "worker/cache/prefix_cache.h"
#include "worker/engine/scheduler.h"

namespace sluice::worker {
namespace {

constexpr uint32_t kRows = 256;
constexpr uint32_t kPrompt = 500;

std::vector<TokenId> Prompt(uint32_t seed) {
  std::vector<TokenId> tokens(kPrompt);
  std::iota(tokens.begin(), tokens.end(), static_cast<TokenId>(seed * 3));
  return tokens;
}

StepResult Answer(const StepPlan& plan) {
  StepResult result;
  for (const PlanRow& row : plan.rows) {
    for (SequenceKey seq : row.samples) {
      SampledToken token;
      token.seq = seq;
      token.token = 7;
      result.sampled.push_back(token);
    }
  }
  return result;
}

// All rows decoding.
std::unique_ptr<Scheduler> Decoding() {
  auto scheduler = *Scheduler::Create({.limits = {.max_batch_seqs = kRows,
                                                  .max_batch_tokens = 8192,
                                                  .block_tokens = 64},
                                       .num_blocks = 100001,
                                       .model_length = 1u << 20,
                                       .vocab = 50000,
                                       .eos_ids = {},
                                       .kv_fingerprint = std::string(32, 'f')});
  for (uint32_t i = 0; i < kRows; ++i) {
    Request request;
    request.key = i + 1;
    request.prompt = Prompt(i);
    request.sampling.max_tokens = 1 << 20;
    scheduler->Submit(std::move(request), 0, 100);
  }
  while (scheduler->Counts(0).waiting_seqs > 0) {
    const CommittedStep step = scheduler->Commit(scheduler->Plan(0), 0);
    scheduler->Retire(*step.plan, Answer(*step.plan), 0);
    scheduler->TakeEvents();
  }
  return scheduler;
}

void BM_Plan256DecodeRows(benchmark::State& state) {
  const auto scheduler = Decoding();
  SLUICE_CHECK(scheduler->Plan(0).rows.size() == kRows);
  for (auto _ : state) benchmark::DoNotOptimize(scheduler->Plan(0));
}
BENCHMARK(BM_Plan256DecodeRows)->Unit(benchmark::kMicrosecond);

void BM_PlanCommitRetire256DecodeRows(benchmark::State& state) {
  const auto scheduler = Decoding();
  for (auto _ : state) {
    const CommittedStep step = scheduler->Commit(scheduler->Plan(0), 0);
    SLUICE_CHECK(step.plan->rows.size() == kRows);
    scheduler->Retire(*step.plan, Answer(*step.plan), 0);
    benchmark::DoNotOptimize(scheduler->TakeEvents());
  }
}
BENCHMARK(BM_PlanCommitRetire256DecodeRows)
    ->Unit(benchmark::kMicrosecond)
    ->Iterations(2000);

void BM_AllocateAndRelease10000Blocks(benchmark::State& state) {
  BlockAllocator blocks(10001);
  std::vector<BlockId> table;
  for (auto _ : state) {
    table.clear();
    SLUICE_CHECK(blocks.Allocate(10000, table).ok());
    for (size_t i = table.size(); i-- > 0;) blocks.Unref(table[i]);
  }
}
BENCHMARK(BM_AllocateAndRelease10000Blocks)->Unit(benchmark::kMicrosecond);

void BM_HashBlockOf64(benchmark::State& state) {
  const std::vector<TokenId> tokens = Prompt(1);
  const BlockHash root = RootHash({std::string(32, 'f'), "", ""});
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        ChainedHash(root, absl::MakeConstSpan(tokens).first(64), {}));
  }
}
BENCHMARK(BM_HashBlockOf64)->Unit(benchmark::kNanosecond);

}  // namespace
}  // namespace sluice::worker
