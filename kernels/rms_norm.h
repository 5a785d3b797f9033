#ifndef KERNELS_RMS_NORM_H_
#define KERNELS_RMS_NORM_H_

#include "kernels/tensor_view.h"

namespace sluice::kernels {

// RMS normalisation of each row:
//
//   y[t, d] = (x[t, d] * r) * weight[d],  r = 1 / sqrt(mean_d(x^2) + epsilon)
//
//   x        [tokens, hidden]
//   weight   [hidden]
//   y        [tokens, hidden]  may be x itself; any other overlap is a bug
//   epsilon  unit of x^2, > 0
//
// Order of the sum: CPU numerics section 6 (per 128 values 16 lanes of fma
// folded as R16, blocks added in f64). Within a relative 1e-6 of f64 for
// hidden <= 16384. A norm of q or k per head is this op over rows of head_dim.
struct RmsNormArgs {
  MatrixView<const float> x;
  const float* weight = nullptr;
  MatrixView<float> y;
  float epsilon = 1e-6f;
};
using RmsNormFn = void (*)(const OpContext&, const RmsNormArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_RMS_NORM_H_
