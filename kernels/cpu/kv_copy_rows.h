#ifndef KERNELS_CPU_KV_COPY_ROWS_H_
#define KERNELS_CPU_KV_COPY_ROWS_H_

#include <cstring>

#include "base/check.h"
#include "kernels/kv_copy.h"

// Where one row of one head goes in a block, for every level. Rounder supplies
// `static void Round(const float* x, int64_t n, uint16_t* bf16)` and keeps the
// instances of different instruction sets apart.

namespace sluice::kernels {

inline constexpr int64_t kMaxHeadDim = 512;

template <typename Rounder>
void StoreRowF32(const float* row, int64_t head_dim, int64_t offset,
                 uint8_t* head) {
  std::memcpy(head + offset * head_dim * 4, row, head_dim * 4);
}

// K tiles [block_tokens / 16, head_dim / 2, 16, 2]: one word of two values a
// dimension pair, 64 bytes apart.
template <typename Rounder>
void StoreKeyTiles(const uint16_t* row, int64_t head_dim, int64_t offset,
                   uint8_t* head) {
  uint8_t* at = head + (offset / 16) * 32 * head_dim + offset % 16 * 4;
  for (int64_t d = 0; d < head_dim; d += 2) {
    std::memcpy(at + d * 32, row + d, 4);
  }
}

// V tiles [block_tokens / 2, head_dim, 2].
template <typename Rounder>
void StoreValueTiles(const uint16_t* row, int64_t head_dim, int64_t offset,
                     uint8_t* head) {
  uint8_t* at = head + offset / 2 * 4 * head_dim + offset % 2 * 2;
  for (int64_t d = 0; d < head_dim; ++d) std::memcpy(at + d * 4, row + d, 2);
}

template <typename Rounder>
void WriteKvRow(const WriteKvArgs& args, int64_t t) {
  const int64_t slot = args.slots[t];
  if (slot < 0) return;
  const KvView& kv = args.kv;
  const int64_t block = slot / kv.block_tokens;
  const int64_t offset = slot % kv.block_tokens;
  SLUICE_CHECK(block < kv.num_blocks);
  uint16_t rounded[kMaxHeadDim];
  for (int comp = 0; comp < 2; ++comp) {
    const float* row = (comp == 0 ? args.k : args.v).Row(t);
    uint8_t* base =
        kv.base + block * kv.block_stride_bytes + comp * kv.comp_stride_bytes;
    for (int64_t h = 0; h < kv.kv_heads; ++h) {
      const float* values = row + h * kv.head_dim;
      uint8_t* head = base + h * kv.head_stride_bytes;
      if (kv.dtype == KvDtype::kF32) {
        StoreRowF32<Rounder>(values, kv.head_dim, offset, head);
        continue;
      }
      Rounder::Round(values, kv.head_dim, rounded);
      if (kv.order == KvOrder::kCanonical) {
        std::memcpy(head + offset * kv.head_dim * 2, rounded, kv.head_dim * 2);
      } else if (comp == 0) {
        StoreKeyTiles<Rounder>(rounded, kv.head_dim, offset, head);
      } else {
        StoreValueTiles<Rounder>(rounded, kv.head_dim, offset, head);
      }
    }
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_KV_COPY_ROWS_H_
