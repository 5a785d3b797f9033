#ifndef TESTS_KERNELS_EXP_LANES_H_
#define TESTS_KERNELS_EXP_LANES_H_

#include <cstdint>

#include "kernels/quant/bf16.h"

// exp, row sum and bf16 rounding of each level over arrays, compiled with that
// level's instructions. n is a multiple of 16.

namespace sluice::kernels {

void ExpAvx2(const float* x, int64_t n, float* y);
void ExpAvx512(const float* x, int64_t n, float* y);
float FoldAvx2(const float* sixteen);
float FoldAvx512(const float* sixteen);
void RoundAvx2(const float* x, int64_t n, float* y);
void RoundAvx512(const float* x, int64_t n, float* y);

}  // namespace sluice::kernels

#endif  // TESTS_KERNELS_EXP_LANES_H_
