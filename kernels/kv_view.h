#ifndef KERNELS_KV_VIEW_H_
#define KERNELS_KV_VIEW_H_

#include <cstdint>

namespace sluice::kernels {

enum class KvDtype : uint8_t { kBF16, kF32 };

// Order of the block_tokens x head_dim values of one head in one block.
enum class KvOrder : uint8_t {
  kCanonical,  // [block_tokens, head_dim]
  // K [block_tokens / 16, head_dim / 2, 16, 2], V [block_tokens / 2, head_dim,
  // 2]; 16-bit values, block_tokens >= 16, head_dim even.
  kCpuTiles,
};

// K and V of one layer in the block pool. Element (block b, comp c, head h)
// starts at base + b * block_stride_bytes + c * comp_stride_bytes +
// h * head_stride_bytes; comp 0 is K, 1 is V. Block 0 is the null block:
// written freely, never read. Non-owning.
struct KvView {
  uint8_t* base = nullptr;
  int64_t num_blocks = 0;
  int64_t block_stride_bytes = 0;
  int64_t comp_stride_bytes = 0;
  int64_t head_stride_bytes = 0;
  int64_t block_tokens = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  KvDtype dtype = KvDtype::kBF16;
  KvOrder order = KvOrder::kCpuTiles;
};

}  // namespace sluice::kernels

#endif  // KERNELS_KV_VIEW_H_
