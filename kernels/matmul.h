#ifndef KERNELS_MATMUL_H_
#define KERNELS_MATMUL_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// The form in which a product takes its left operand; fixed by the weights'
// format (spec: CPU numerics sections 2, 5, 6).
enum class ActivationKind : uint8_t {
  kInt8Group32,   // Q8_0 Q4_* Q5_*: s8 codes, f32 scale and sum per 32 of k
  kBF16,          // BF16: nearest-even bf16
  kF32,           // F32, F16: as they are
  kInt8Group256,  // K formats: s8 codes, a scale per 256 of k
};

ActivationKind ActivationKindFor(WeightFormat format);

// Rows [rows, k] in that form; `bytes` is 64-byte aligned,
// ActivationBytes(kind, rows, k) long and borrowed. Rows are grouped by 16,
// [rows/16][k/32][16][32] for s8.
struct Activations {
  ActivationKind kind = ActivationKind::kF32;
  int64_t rows = 0;
  int64_t k = 0;
  uint8_t* bytes = nullptr;
};

int64_t ActivationBytes(ActivationKind kind, int64_t rows, int64_t k);

// out = x rounded to out.kind; x is [out.rows, out.k]. K is padded to 32 with
// zero codes; for kInt8Group256 it is a multiple of 256. Zero rows: no-op.
// With `norm_weight` [k] each row is RMS-normalised before (rms_norm.h, the
// same bits), without the normed matrix ever being stored.
struct PackActivationsArgs {
  MatrixView<const float> x;
  Activations out;
  const float* norm_weight = nullptr;
  float epsilon = 0;  // of the norm
};
using PackActivationsFn = void (*)(const OpContext&,
                                   const PackActivationsArgs&);

//   y[r, j] = sum_k a[r, k] * w[j, k]  (+ bias[j])  (+ y[r, j])
//
//   a     [rows, k]  kind = ActivationKindFor(w.format)
//   w     [n, k]
//   bias  [n] or null; added to the finished sum, one rounding
//   y     [rows, n]  `accumulate`: y + (product + bias), one more rounding
//
// Each result is one chain in a fixed order whatever the number of rows,
// threads or the instruction set: equal bits on every path. Relative error
// against f64 on the same rounded operands: 1e-5 of sum |a||w| for f32 out.
// Zero rows: no-op. Shapes that differ CHECK-fail.
//
// What surrounds a product in a decoder can be done in the same call, so that
// the threads meet once instead of four times; the bits are those of the
// separate ops:
//
//   pack      packs its x into `a` first (pack->out is a); null: `a` is packed
//   more      further products of the same `a`, each with its own w and y
//   silu_mul  w holds panels of 16 rows of a gate and of an up matrix in turn;
//             y [rows, n / 2] = silu(gate) * up (elementwise.h), each side's
//             bias, in w's order, added before. n is a multiple of 32
//   packed_y  takes y packed as the left operand of what comes next, k =
//             y.cols, instead of y, whose memory is then scratch
//
// silu_mul and packed_y go with neither `accumulate` nor `more`.
struct MatmulPart {
  PackedMatrix w;
  const float* bias = nullptr;
  MatrixView<float> y;
};
struct MatmulArgs {
  Activations a;
  PackedMatrix w;
  const float* bias = nullptr;
  MatrixView<float> y;
  bool accumulate = false;
  const PackActivationsArgs* pack = nullptr;
  absl::Span<const MatmulPart> more;
  bool silu_mul = false;
  const Activations* packed_y = nullptr;
};
using MatmulFn = void (*)(const OpContext&, const MatmulArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_MATMUL_H_
