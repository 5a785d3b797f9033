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

// Element k of row `row` of `a`, widened.
double ActivationAt(const Activations& a, int64_t row, int64_t k);

}  // namespace sluice::kernels

#endif  // KERNELS_REFERENCE_MATMUL_H_
