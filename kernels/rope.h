#ifndef KERNELS_ROPE_H_
#define KERNELS_ROPE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

enum class RopePairs : uint8_t {
  kInterleaved,  // (2i, 2i + 1): GGUF files of arch llama
  kHalf,         // (i, i + rot / 2)
};

// cos and sin, f32 [positions, rot / 2]; built by rope_table.h.
struct RopeTable {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t positions = 0;
  int64_t rot = 0;  // rotated dimensions, even, <= head_dim
};

// Done by append_kv.h: rotates in place the first table.rot dimensions of every
// head of every row:
//
//   (x, y) -> (x c - y s, x s + y c), each product and sum rounded to f32
//
//   x          [tokens, heads * head_dim]
//   positions  [tokens], each in [0, table.positions): CHECK
struct RopeArgs {
  MatrixView<float> x;
  int64_t heads = 0;
  int64_t head_dim = 0;
  absl::Span<const int64_t> positions;
  RopeTable table;
  RopePairs pairs = RopePairs::kHalf;
};

}  // namespace sluice::kernels

#endif  // KERNELS_ROPE_H_
