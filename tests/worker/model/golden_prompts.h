#ifndef TESTS_WORKER_MODEL_GOLDEN_PROMPTS_H_
#define TESTS_WORKER_MODEL_GOLDEN_PROMPTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace sluice::worker {

// The oracle's most likely tokens at one position, best first: log-
// probabilities (SmolLM2) or logits (tiny models).
struct GoldenPosition {
  int32_t position = 0;
  std::vector<int32_t> ids;
  std::vector<double> values;
};

// One prompt of the golden files; see tests/golden/README.md.
struct GoldenPrompt {
  std::string name;
  std::vector<int32_t> ids;
  std::vector<GoldenPosition> positions;
  std::vector<double> last_logits;  // tiny models: [vocab]
  std::vector<int32_t> greedy;
  std::vector<double> gap;  // best minus second logit at each greedy step
};

std::vector<GoldenPrompt> ReadSmolLm2Prompts();
std::vector<GoldenPrompt> ReadTinyPrompts(const std::string& family);

// log softmax of `logits`, in f64.
std::vector<double> LogSoftmax(absl::Span<const float> logits);

// Steps of `greedy` equal to the oracle's; stops at the first with a gap below
// `epsilon`. `differs_at` is the first difference before that, or -1.
struct GreedyComparison {
  int compared = 0;
  int differs_at = -1;
};
GreedyComparison CompareGreedy(const GoldenPrompt& golden,
                               absl::Span<const int32_t> greedy,
                               double epsilon);

}  // namespace sluice::worker

#endif  // TESTS_WORKER_MODEL_GOLDEN_PROMPTS_H_
