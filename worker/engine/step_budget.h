#ifndef WORKER_ENGINE_STEP_BUDGET_H_
#define WORKER_ENGINE_STEP_BUDGET_H_

#include <cstdint>

namespace sluice::worker {

struct StepBudgetOptions {
  // How long a step with prompts in it should take beside sequences that
  // decode: the gap in their streams. A step without them may take 4 times as
  // long: there only the first tokens wait.
  int64_t target_us = 250'000;
  uint32_t block_tokens = 64;
  uint32_t max_batch_tokens = 8192;
};

// How many prompt tokens a step takes, from how long the steps before took: a
// long prompt is cut so that no stream stalls while it is computed. Chunks
// never show in a token, only in its time. Engine thread.
class StepBudget {
 public:
  explicit StepBudget(const StepBudgetOptions& options) : options_(options) {}

  // For the next step; at least a block, at most max_batch_tokens.
  uint32_t PromptTokens(bool beside_decodes) const;

  // A step of that many prompt tokens took `us`.
  void OnStep(uint32_t prompt_tokens, bool beside_decodes, int64_t us);

 private:
  const StepBudgetOptions options_;
  // Prompt tokens per microsecond of step, alone and beside sequences that
  // decode (whose time then counts too); 0: not measured yet.
  double rate_[2] = {0, 0};
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_STEP_BUDGET_H_
