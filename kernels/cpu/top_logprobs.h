#ifndef KERNELS_CPU_TOP_LOGPROBS_H_
#define KERNELS_CPU_TOP_LOGPROBS_H_

#include <cstdint>

#include "kernels/sample.h"

namespace sluice::kernels {

// The largest logits of a row in LogprobsRow::top, largest first, ties by lower
// id; their values are logits until Finish().
class TopLogits {
 public:
  explicit TopLogits(const LogprobsRow& row) : row_(row) {}

  // Tokens must come in ascending order.
  void Offer(int32_t token, float logit);
  // A logit must be above this to enter.
  float floor() const;
  bool full() const { return size_ == row_.num_top; }

  // Turns logits into logprobs, also of LogprobsRow::token.
  // sum = sum of exp(x - best) over the row. Unused places get token -1.
  void Finish(float best, double sum);

 private:
  const LogprobsRow& row_;
  int32_t size_ = 0;
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_TOP_LOGPROBS_H_
