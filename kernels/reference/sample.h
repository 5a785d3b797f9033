#ifndef KERNELS_REFERENCE_SAMPLE_H_
#define KERNELS_REFERENCE_SAMPLE_H_

#include <cstdint>
#include <vector>

#include "kernels/philox.h"
#include "kernels/sample.h"

namespace sluice::kernels {

// Steps 3 to 7 of sampling in f64.
std::vector<double> EditedLogitsF64(const SampleRow& row, int64_t vocab);

// Steps 9 to 12 in f64 by sorting every token.
struct KeptF64 {
  std::vector<int32_t> order;  // all tokens, z descending then id ascending
  std::vector<double> z;       // by token
  int64_t kept = 0;            // the first ones of `order`
  // How far the cumulated share is from top_p at the cut, at least; 1 when
  // top_p is off. Below 1e-6 rounding may decide otherwise.
  double margin = 1;
};
KeptF64 TruncateF64(const SampleRow& row, const std::vector<double>& x);

// Noise() in f64, from the same f32 v.
double NoiseF64(uint32_t word);

// Log-softmax of one row.
std::vector<double> LogprobsF64(const float* logits, int64_t vocab);

}  // namespace sluice::kernels

#endif  // KERNELS_REFERENCE_SAMPLE_H_
