#ifndef KERNELS_REFERENCE_MATMUL_H_
#define KERNELS_REFERENCE_MATMUL_H_

#include "kernels/matmul.h"

namespace sluice::kernels {

// The product in float64 on exactly the operands a kernel sees: rounded
// activations and decoded weights.
//
//   y         [a.rows, w.n]
//   absolute  [a.rows, w.n] sum of |a| |w|, the scale of the error bound
struct MatmulF64Args {
  Activations a;
  PackedMatrix w;
  double* y = nullptr;
  double* absolute = nullptr;
};
void MatmulF64(const MatmulF64Args& args);

// silu(gate) * up of a product whose w has panels of the two in turn.
//
//   y      [a.rows, w.n / 2]
//   bound  [a.rows, w.n / 2] of the error of an f32 result
struct GatedMatmulF64Args {
  Activations a;
  PackedMatrix w;
  const float* bias = nullptr;  // [w.n] or null
  double* y = nullptr;
  double* bound = nullptr;
};
void GatedMatmulF64(const GatedMatmulF64Args& args);

// Element k of row `row` of `a`, widened.
double ActivationAt(const Activations& a, int64_t row, int64_t k);

}  // namespace sluice::kernels

#endif  // KERNELS_REFERENCE_MATMUL_H_
