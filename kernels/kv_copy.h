#ifndef KERNELS_KV_COPY_H_
#define KERNELS_KV_COPY_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/kv_view.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// Done by append_kv.h: writes row t of k and v, rounded to the cache's dtype,
// to slots[t] = block * block_tokens + offset; -1 skips the row. Rows of one
// call never share a slot.
//
//   k, v   [tokens, kv_heads * head_dim]
//   slots  [tokens]
struct WriteKvArgs {
  MatrixView<const float> k;
  MatrixView<const float> v;
  absl::Span<const int64_t> slots;
  KvView kv;
};

// Whole blocks of a pool, all layers: block `to` becomes a copy of `from`.
// Sources and destinations are disjoint sets.
struct BlockCopyPair {
  uint32_t from = 0;
  uint32_t to = 0;
};
struct CopyBlocksArgs {
  uint8_t* base = nullptr;
  int64_t block_stride_bytes = 0;
  absl::Span<const BlockCopyPair> pairs;
};
using CopyBlocksFn = void (*)(const OpContext&, const CopyBlocksArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_KV_COPY_H_
