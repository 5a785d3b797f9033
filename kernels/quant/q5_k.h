#ifndef KERNELS_QUANT_Q5_K_H_
#define KERNELS_QUANT_Q5_K_H_

#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"
#include "kernels/quant/k_scales.h"

namespace sluice::kernels {

// 256 elements in 176 bytes: f16 d; f16 dmin; u8 scales[12]; u8 qh[32];
// u8 qs[128]. As Q4_K; bit j of qh[i] is the fifth bit of element i of
// sub-block j.
inline constexpr int64_t kQ5_KBlockBytes = 176;

// One rounding, by the subtraction; the products are exact.
inline void DecodeQ5_K(const uint8_t* block, float* out) {
  uint16_t half[2];
  std::memcpy(half, block, sizeof(half));
  const float d = F16ToF32(half[0]);
  const float dmin = F16ToF32(half[1]);
  for (int j = 0; j < 8; ++j) {
    const KScale k = KScaleAt(block + 4, j);
    const float scale = d * static_cast<float>(k.scale);
    const float minimum = dmin * static_cast<float>(k.minimum);
    const uint8_t* high = block + 16;
    const uint8_t* codes = block + 48 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = (codes[i] >> (j % 2 * 4) & 15) | (high[i] >> j & 1) << 4;
      out[32 * j + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q5_K_H_
