#ifndef KERNELS_QUANT_Q4_1_H_
#define KERNELS_QUANT_Q4_1_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {

// 32 elements in 20 bytes: f16 d; f16 m; u8 qs[16]. Element j is d * lo + m
// and element j + 16 is d * hi + m, with the nibbles of qs[j].
inline constexpr int64_t kQ4_1BlockBytes = 20;

// One rounding, by the addition; the product is exact.
inline void DecodeQ4_1(const uint8_t* block, float* out) {
  uint16_t half[2];
  std::memcpy(half, block, sizeof(half));
  const float d = F16ToF32(half[0]);
  const float m = F16ToF32(half[1]);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block[4 + j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block[4 + j] >> 4) + m;
  }
}

// d = (max - min) / 15, m = min, as ggml's reference quantiser. For finite
// values.
inline void EncodeQ4_1(const float* in, uint8_t* block) {
  const float low = *std::min_element(in, in + 32);
  const float high = *std::max_element(in, in + 32);
  const float d = (high - low) / 15.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  const uint16_t half[2] = {F32ToF16(d), F32ToF16(low)};
  std::memcpy(block, half, sizeof(half));
  const auto code = [inverse, low](float x) {
    return std::min(15, static_cast<int>((x - low) * inverse + 0.5f));
  };
  for (int j = 0; j < 16; ++j) {
    block[4 + j] = static_cast<uint8_t>(code(in[j]) | code(in[j + 16]) << 4);
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q4_1_H_
