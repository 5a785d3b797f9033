// Time of one sampled row by level, vocabulary and parameters.

#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "tests/kernels/op_levels.h"
#include "tests/kernels/sample_fixture.h"

namespace sluice::kernels {
namespace {

struct Kind {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
  bool penalties;
};

const Kind kKinds[] = {
    {"greedy", 0, 0, 1, 0, false},
    {"plain", 1, 0, 1, 0, false},
    {"top_p", 0.8f, 0, 0.9f, 0, false},
    {"min_p", 1, 0, 1, 0.05f, false},
    {"top_k+top_p", 0.8f, 50, 0.9f, 0, false},
    {"top_k+top_p+penalties", 0.8f, 50, 0.9f, 0, true},
};

void Sample(benchmark::State& state, const OpTable& ops, const Kind& kind,
            int64_t vocab) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(vocab);
  for (float& x : logits) x = normal(rng);
  for (int i = 0; i < 20; ++i) logits[rng() % vocab] += 8;
  std::vector<TokenCount> counts;
  for (int i = 0; i < 500; ++i) {
    counts.push_back({static_cast<int32_t>(i * 7), i % 2});
  }
  SampleRow row = {.logits = logits.data(),
                   .temperature = kind.temperature,
                   .top_k = kind.top_k,
                   .top_p = kind.top_p,
                   .min_p = kind.min_p,
                   .seed = 5};
  if (kind.penalties) {
    row.repetition_penalty = 1.1f;
    row.frequency_penalty = 0.1f;
    row.counts = counts;
  }
  RowSampling sampling(ops, vocab);
  for (auto _ : state) {
    ++row.position;
    benchmark::DoNotOptimize(sampling.One(row));
  }
}

const bool kRegistered = [] {
  for (const OpTable* ops : Levels()) {
    for (const int64_t vocab : {49152, 128256}) {
      for (const Kind& kind : kKinds) {
        const std::string name = std::string(ops->name) + "/" +
                                 std::to_string(vocab) + "/" + kind.name;
        benchmark::RegisterBenchmark(
            name.c_str(),
            [=](benchmark::State& state) { Sample(state, *ops, kind, vocab); })
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace sluice::kernels
