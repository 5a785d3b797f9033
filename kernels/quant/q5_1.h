#ifndef KERNELS_QUANT_Q5_1_H_
#define KERNELS_QUANT_Q5_1_H_

#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {

// 32 elements in 24 bytes: f16 d; f16 m; u32 qh; u8 qs[16]. Codes as in Q5_0;
// the value is d * code + m.
inline constexpr int64_t kQ5_1BlockBytes = 24;

// One rounding, by the addition; the product is exact.
inline void DecodeQ5_1(const uint8_t* block, float* out) {
  uint16_t half[2];
  uint32_t high;
  std::memcpy(half, block, sizeof(half));
  std::memcpy(&high, block + 4, sizeof(high));
  const float d = F16ToF32(half[0]);
  const float m = F16ToF32(half[1]);
  for (int j = 0; j < 16; ++j) {
    const uint32_t low = block[8 + j];
    const uint32_t first = (low & 15) | (high >> j & 1) << 4;
    const uint32_t second = low >> 4 | (high >> (j + 16) & 1) << 4;
    out[j] = d * static_cast<float>(first) + m;
    out[j + 16] = d * static_cast<float>(second) + m;
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q5_1_H_
