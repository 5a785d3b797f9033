#include "kernels/cpu/top_logprobs.h"

#include <cmath>

#include "kernels/exact_math.h"

namespace sluice::kernels {

void TopLogits::Offer(int32_t token, float logit) {
  if (full() && (size_ == 0 || !(logit > floor()))) return;
  int32_t at = full() ? size_ - 1 : size_++;
  for (; at > 0 && logit > row_.top[at - 1].logprob; --at) {
    row_.top[at] = row_.top[at - 1];
  }
  row_.top[at] = {.token = token, .logprob = logit};
}

float TopLogits::floor() const {
  return size_ == 0 ? INFINITY : row_.top[size_ - 1].logprob;
}

void TopLogits::Finish(float best, double sum) {
  // A row without a finite logit has no distribution; it fails in sampling.
  const double ln_sum = sum >= 1 ? ExactLog(sum) : 0;
  const auto logprob = [&](float x) {
    if (x == -INFINITY) return x;
    return static_cast<float>(static_cast<double>(x - best) - ln_sum);
  };
  *row_.logprob = logprob(row_.logits[row_.token]);
  for (int32_t i = 0; i < size_; ++i) {
    row_.top[i].logprob = logprob(row_.top[i].logprob);
  }
  for (int32_t i = size_; i < row_.num_top; ++i) {
    row_.top[i] = {.token = -1, .logprob = -INFINITY};
  }
}

}  // namespace sluice::kernels
