#ifndef KERNELS_QUANT_F16_H_
#define KERNELS_QUANT_F16_H_

#include <cstdint>
#include <cstring>

namespace sluice::kernels {

// IEEE half: 1 sign, 5 exponent, 10 fraction bits. Integer arithmetic only, so
// the results do not depend on MXCSR.

// Exact for every half; the payload of a NaN is kept.
inline float F16ToF32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  uint32_t exponent = half >> 10 & 31;
  uint32_t fraction = half & 0x3ff;
  uint32_t bits = sign;
  if (exponent == 31) {
    bits |= 0x7f800000 | fraction << 13;
  } else if (exponent != 0) {
    bits |= (exponent + 112) << 23 | fraction << 13;
  } else if (fraction != 0) {  // subnormal: normalise
    exponent = 113;
    while ((fraction & 0x400) == 0) {
      fraction <<= 1;
      --exponent;
    }
    bits |= exponent << 23 | (fraction & 0x3ff) << 13;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Nearest even; overflow gives infinity, a NaN stays a (quiet) NaN.
inline uint16_t F32ToF16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  uint32_t mantissa = magnitude & 0x7fffff;
  const int exponent = static_cast<int>(magnitude >> 23) - 112;
  int shift = 13;
  uint32_t result = 0;
  if (exponent > 0) {
    result = static_cast<uint32_t>(exponent) << 10;
  } else {  // subnormal half: the leading one becomes explicit
    if (exponent < -10) return static_cast<uint16_t>(sign);
    mantissa |= 0x800000;
    shift = 14 - exponent;
  }
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t half = 1u << (shift - 1);
  result += mantissa >> shift;
  if (rest > half || (rest == half && (result & 1) != 0)) ++result;
  return static_cast<uint16_t>(sign | result);
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_F16_H_
