#ifndef KERNELS_ELEMENTWISE_H_
#define KERNELS_ELEMENTWISE_H_

#include "kernels/tensor_view.h"

namespace sluice::kernels {

// y = silu(gate) * up, silu(x) = x * sigmoid(x) by CPU numerics section 7,
// each product rounded to f32. All [tokens, ffn]; y may be gate or up itself.
struct SiluMulArgs {
  MatrixView<const float> gate;
  MatrixView<const float> up;
  MatrixView<float> y;
};
using SiluMulFn = void (*)(const OpContext&, const SiluMulArgs&);

// y = a + b, all [tokens, hidden]; y may be a or b itself.
struct AddArgs {
  MatrixView<const float> a;
  MatrixView<const float> b;
  MatrixView<float> y;
};
using AddFn = void (*)(const OpContext&, const AddArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_ELEMENTWISE_H_
