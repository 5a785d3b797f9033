#ifndef KERNELS_QUANT_Q4_K_H_
#define KERNELS_QUANT_Q4_K_H_

#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"
#include "kernels/quant/k_scales.h"

namespace sluice::kernels {

// 256 elements in 144 bytes: f16 d; f16 dmin; u8 scales[12]; u8 qs[128].
// Sub-block j of 32 has the low (j even) or high nibbles of qs[32 * (j / 2)]
// and on; its values are (d * scale_j) * code - dmin * minimum_j.
inline constexpr int64_t kQ4_KBlockBytes = 144;

// One rounding, by the subtraction; the products are exact.
inline void DecodeQ4_K(const uint8_t* block, float* out) {
  uint16_t half[2];
  std::memcpy(half, block, sizeof(half));
  const float d = F16ToF32(half[0]);
  const float dmin = F16ToF32(half[1]);
  for (int j = 0; j < 8; ++j) {
    const KScale k = KScaleAt(block + 4, j);
    const float scale = d * static_cast<float>(k.scale);
    const float minimum = dmin * static_cast<float>(k.minimum);
    const uint8_t* codes = block + 16 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = codes[i] >> (j % 2 * 4) & 15;
      out[32 * j + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q4_K_H_
