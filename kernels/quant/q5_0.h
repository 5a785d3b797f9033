#ifndef KERNELS_QUANT_Q5_0_H_
#define KERNELS_QUANT_Q5_0_H_

#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {

// 32 elements in 22 bytes: f16 d; u32 qh; u8 qs[16]. Element j has the low
// nibble of qs[j], element j + 16 the high one, and bit i of qh is the fifth
// bit of element i; the value is d * (code - 16).
inline constexpr int64_t kQ5_0BlockBytes = 22;

// Exact: each product has at most 16 significant bits.
inline void DecodeQ5_0(const uint8_t* block, float* out) {
  uint16_t half;
  uint32_t high;
  std::memcpy(&half, block, sizeof(half));
  std::memcpy(&high, block + 2, sizeof(high));
  const float d = F16ToF32(half);
  for (int j = 0; j < 16; ++j) {
    const uint32_t low = block[6 + j];
    const uint32_t first = (low & 15) | (high >> j & 1) << 4;
    const uint32_t second = low >> 4 | (high >> (j + 16) & 1) << 4;
    out[j] = d * static_cast<float>(static_cast<int32_t>(first) - 16);
    out[j + 16] = d * static_cast<float>(static_cast<int32_t>(second) - 16);
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q5_0_H_
