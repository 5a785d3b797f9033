#ifndef KERNELS_QUANT_Q8_0_H_
#define KERNELS_QUANT_Q8_0_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {

// 32 elements in 34 bytes: f16 d; s8 qs[32]; element j is d * qs[j].
inline constexpr int64_t kQ8_0BlockBytes = 34;

// Exact: each product has at most 19 significant bits.
inline void DecodeQ8_0(const uint8_t* block, float* out) {
  uint16_t half;
  std::memcpy(&half, block, sizeof(half));
  const float d = F16ToF32(half);
  for (int j = 0; j < 32; ++j) {
    out[j] = d * static_cast<float>(static_cast<int8_t>(block[2 + j]));
  }
}

// d = max|x| / 127, codes to nearest: the rounding of ggml's reference
// quantiser. For finite values.
inline void EncodeQ8_0(const float* in, uint8_t* block) {
  float amax = 0;
  for (int j = 0; j < 32; ++j) amax = std::fmax(amax, std::fabs(in[j]));
  const float d = amax / 127.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  const uint16_t half = F32ToF16(d);
  std::memcpy(block, &half, sizeof(half));
  for (int j = 0; j < 32; ++j) {
    block[2 + j] =
        static_cast<uint8_t>(static_cast<int8_t>(std::roundf(in[j] * inverse)));
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_Q8_0_H_
