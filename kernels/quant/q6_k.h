#ifndef KERNELS_QUANT_Q6_K_H_
#define KERNELS_QUANT_Q6_K_H_

#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {

// 256 elements in 210 bytes: u8 ql[128]; u8 qh[64]; s8 scales[16]; f16 d. Of
// each half of 128 the quarter r of 32 has the low (r < 2) or high nibbles of
// ql[32 * (r % 2)] and on, and bits 2r and 2r + 1 of qh above them; 16 elements
// share a scale. Values are (d * scale) * (code - 32).
inline constexpr int64_t kQ6_KBlockBytes = 210;

// One rounding, by the last product.
inline void DecodeQ6_K(const uint8_t* block, float* out) {
  uint16_t half;
  std::memcpy(&half, block + 208, sizeof(half));
  const float d = F16ToF32(half);
  for (int i = 0; i < 256; ++i) {
    const int n = i / 128;
    const int r = i / 32 % 4;
    const int l = i % 32;
    const int low = block[64 * n + r % 2 * 32 + l] >> (r / 2 * 4) & 15;
    const int high = block[128 + 32 * n + l] >> (2 * r) & 3;
    const float scale =
        d * static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
    out[i] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q6_K_H_
