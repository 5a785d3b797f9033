#ifndef KERNELS_CPU_ROW_MATH_H_
#define KERNELS_CPU_ROW_MATH_H_

#include <cstdint>

namespace sluice::kernels {

// y[d] = (x[d] * r) * weight[d] for n values, each product rounded.
struct ScaleArgs {
  const float* x = nullptr;
  const float* weight = nullptr;
  float r = 0;
  int64_t n = 0;
  float* y = nullptr;  // may be x
};

// The arithmetic of an op on a piece of one row, for ops that are fused of
// others: one of each per level, all of the same bits.
struct RowMath {
  // 1 / sqrt(mean(x^2) + epsilon) of n values (rms_norm.h).
  float (*norm_factor)(const float* x, int64_t n, float epsilon);
  void (*scale)(const ScaleArgs& args);
  // y = silu(gate) * up of n values (elementwise.h); y may be either.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);
};

extern const RowMath kRowMathPortable;
extern const RowMath kRowMathAvx2;    // call where DetectIsa() >= kAvx2
extern const RowMath kRowMathAvx512;  // call where DetectIsa() >= kAvx512

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ROW_MATH_H_
