#ifndef KERNELS_QUANT_BF16_H_
#define KERNELS_QUANT_BF16_H_

#include <cstdint>
#include <cstring>

namespace sluice::kernels {

// bfloat16: the high 16 bits of an f32.
inline float Bf16ToF32(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Nearest even on the bits; a subnormal gives a zero of its sign, overflow
// infinity; a NaN stays a (quiet) NaN.
inline uint16_t F32ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  if (magnitude < 0x00800000) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_BF16_H_
