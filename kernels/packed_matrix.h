#ifndef KERNELS_PACKED_MATRIX_H_
#define KERNELS_PACKED_MATRIX_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// How a weight matrix is stored in a model file. Block layouts: the GGUF
// specification; kernels/quant has one file for each.
enum class WeightFormat : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};
inline constexpr int kNumWeightFormats = 11;

absl::string_view Name(WeightFormat format);  // "F32", "Q4_0", ...

// Elements in a block of `format` along k (1 for the float formats).
int64_t BlockElements(WeightFormat format);

// Bytes of one stored row of k elements. k is a multiple of BlockElements().
int64_t StoredRowBytes(WeightFormat format, int64_t k);

// A weight matrix W [n, k] in the one repacked layout that serves every
// instruction set: panels of 16 rows n, 64-byte lines of 16 columns x 4 bytes
// of k (8-bit codes), 16 x 2 (bf16), 16 x 1 (f32), nibble lines 2i low and
// 2i + 1 high, bit planes above them, each panel's scales beside its codes. n
// is padded to 16 and k to 32 with zero codes. Exact layout: kernels/README.md.
// Non-owning; `bytes` is 64-byte aligned and PackedBytes() long.
struct PackedMatrix {
  WeightFormat format = WeightFormat::kF32;
  int64_t n = 0;
  int64_t k = 0;
  const uint8_t* bytes = nullptr;
};

// Of the layout, for packed bytes that are kept: rises with every change of a
// byte that PackMatrix() writes.
inline constexpr uint32_t kPackedLayoutVersion = 1;

int64_t PackedBytes(WeightFormat format, int64_t n, int64_t k);

// Consecutive stored rows of a file.
struct StoredRows {
  const uint8_t* bytes = nullptr;  // rows x StoredRowBytes(format, k)
  int64_t rows = 0;
};

// Repacks the concatenation of `parts` (for instance Q, K and V) into
// `packed_bytes` [PackedBytes(format, sum of rows, k)], 64-byte aligned.
// With `widen_to_f32` the values are decoded exactly and the result has format
// kF32 (PackedBytes of kF32).
struct PackArgs {
  WeightFormat format = WeightFormat::kF32;
  int64_t k = 0;
  absl::Span<const StoredRows> parts;
  bool widen_to_f32 = false;
  uint8_t* packed_bytes = nullptr;
};

// Rows may be packed piece by piece: a piece whose first row is a multiple of
// 32 belongs at byte PackedBytes(format, first row, k), pieces in order.
PackedMatrix PackMatrix(const OpContext& context, const PackArgs& args);

// Decodes row `row` of `matrix` exactly into out [k].
void DecodeRow(const PackedMatrix& matrix, int64_t row, float* out);

}  // namespace sluice::kernels

#endif  // KERNELS_PACKED_MATRIX_H_
