#include "worker/engine/step_budget.h"

#include <algorithm>

namespace sluice::worker {
namespace {

constexpr double kFirstTokens = 512;  // before anything was measured
constexpr int64_t kAloneFactor = 4;
constexpr double kNewest = 0.5;  // weight of the newest step

}  // namespace

uint32_t StepBudget::PromptTokens(bool beside_decodes) const {
  const double rate = rate_[beside_decodes] > 0 ? rate_[beside_decodes]
                                                : rate_[!beside_decodes];
  const double target = static_cast<double>(
      beside_decodes ? options_.target_us : kAloneFactor * options_.target_us);
  const double tokens = rate > 0 ? rate * target : kFirstTokens;
  return static_cast<uint32_t>(
      std::clamp(tokens, static_cast<double>(options_.block_tokens),
                 static_cast<double>(options_.max_batch_tokens)));
}

void StepBudget::OnStep(uint32_t prompt_tokens, bool beside_decodes,
                        int64_t us) {
  // A few tokens cost what the weights cost: that tells no rate.
  if (us <= 0 || prompt_tokens < options_.block_tokens / 2) return;
  const double newest = prompt_tokens / static_cast<double>(us);
  double& rate = rate_[beside_decodes];
  rate = rate > 0 ? (1 - kNewest) * rate + kNewest * newest : newest;
}

}  // namespace sluice::worker
