#ifndef KERNELS_QUANT_Q4_0_H_
#define KERNELS_QUANT_Q4_0_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {

// 32 elements in 18 bytes: f16 d; u8 qs[16]. Element j is d * (lo - 8) and
// element j + 16 is d * (hi - 8), with the nibbles of qs[j].
inline constexpr int64_t kQ4_0BlockBytes = 18;

// Exact.
inline void DecodeQ4_0(const uint8_t* block, float* out) {
  uint16_t half;
  std::memcpy(&half, block, sizeof(half));
  const float d = F16ToF32(half);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block[2 + j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block[2 + j] >> 4) - 8);
  }
}

// d = x / -8 for the x of largest magnitude, as ggml's reference quantiser.
// For finite values.
inline void EncodeQ4_0(const float* in, uint8_t* block) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) {
    if (std::fabs(in[j]) > std::fabs(largest)) largest = in[j];
  }
  const float d = largest / -8.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  const uint16_t half = F32ToF16(d);
  std::memcpy(block, &half, sizeof(half));
  const auto code = [inverse](float x) {
    return std::min(15, static_cast<int>(x * inverse + 8.5f));
  };
  for (int j = 0; j < 16; ++j) {
    block[2 + j] = static_cast<uint8_t>(code(in[j]) | code(in[j + 16]) << 4);
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q4_0_H_
