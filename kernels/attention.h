#ifndef KERNELS_ATTENTION_H_
#define KERNELS_ATTENTION_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/kv_view.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// Causal grouped-query attention over the paged cache, prefill and decode rows
// through one arithmetic.
//
//   q            [tokens, heads * head_dim] after norm and RoPE
//   out          [tokens, heads * head_dim]; must not overlap q
//   q_off        [seqs + 1] prefix sums of the rows of each sequence
//   kv_before    [seqs] cache entries before this step; row j of sequence i
//                has position kv_before[i] + j and sees keys [0, position]
//   block_table  [seqs, table_width] block ids; unused slots 0
//   kv           this layer's cache; holds the step's own tokens already
//   scale        multiplies q . k
//   scratch      ScratchBytes() bytes, 64-byte aligned
//
// Definition, order and rounding: attention specification section 2, CPU
// numerics section 8 (tiles of 64 keys at absolute multiples of 64, segments
// of 512 merged ascending). heads is a multiple of kv.kv_heads. A row's bits do
// not depend on other rows, chunking, threads, block_tokens or level. Against
// f64 on the stored K and V: f32 cache rtol 1e-5 atol 1e-6, bf16 rtol 1e-2
// atol 5e-3.
struct AttentionArgs {
  MatrixView<const float> q;
  MatrixView<float> out;
  int64_t heads = 0;
  absl::Span<const uint32_t> q_off;
  absl::Span<const uint32_t> kv_before;
  const uint32_t* block_table = nullptr;
  int64_t table_width = 0;
  KvView kv;
  float scale = 0;
  uint8_t* scratch = nullptr;
};
using AttentionFn = void (*)(const OpContext&, const AttentionArgs&);

// Upper bound of the scratch of one call with these limits.
struct AttentionLimits {
  int64_t max_tokens = 0;  // rows of a step
  int64_t max_kv_len = 0;  // longest sequence
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t threads = 1;
};
int64_t AttentionScratchBytes(const AttentionLimits& limits);

}  // namespace sluice::kernels

#endif  // KERNELS_ATTENTION_H_
