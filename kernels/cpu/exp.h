#ifndef KERNELS_CPU_EXP_H_
#define KERNELS_CPU_EXP_H_

#include <cstdint>
#include <cstring>

// exp and sigmoid of CPU numerics section 7, one value at a time; the
// definition for every level. Always inlined: files built for different
// instruction sets include this, and a shared out-of-line copy could hold
// instructions a lesser CPU lacks.

namespace sluice::kernels {

inline constexpr float kExpLog2E = 0x1.715476p+0f;
inline constexpr float kExpLn2High = 0x1.62e4p-1f;
inline constexpr float kExpLn2Low = 0x1.7f7d1cp-20f;
inline constexpr float kExpLowest = -86.0f;
// 1/0! .. 1/7!
inline constexpr float kExpTaylor[8] = {1.0f,
                                        1.0f,
                                        0.5f,
                                        0x1.555556p-3f,
                                        0x1.555556p-5f,
                                        0x1.111112p-7f,
                                        0x1.6c16c2p-10f,
                                        0x1.a01a02p-13f};

// exp(x) for x <= 0; below -86, or for a NaN, +0. Relative error below 7.5e-8.
[[gnu::always_inline]] inline float ExpNonPositive(float x) {
  if (!(x >= kExpLowest)) return 0;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest even integer.
  constexpr float kToInteger = 0x1.8p+23f;
  const float n = (x * kExpLog2E + kToInteger) - kToInteger;
  const float r =
      __builtin_fmaf(n, -kExpLn2Low, __builtin_fmaf(n, -kExpLn2High, x));
  float p = kExpTaylor[7];
  for (int i = 6; i >= 0; --i) p = __builtin_fmaf(p, r, kExpTaylor[i]);
  int32_t bits;
  std::memcpy(&bits, &p, sizeof(bits));
  bits += static_cast<int32_t>(n) * (1 << 23);
  std::memcpy(&p, &bits, sizeof(p));
  return p;
}

// 1 / (1 + exp(-x)) without an exp of a positive argument.
[[gnu::always_inline]] inline float Sigmoid(float x) {
  const float e = ExpNonPositive(-__builtin_fabsf(x));
  return x >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
}

// The sum of 16 lanes, folded 8, 4, 2, 1: the end of every row sum (section
// 6). T is float or double.
template <typename T>
[[gnu::always_inline]] inline T FoldLanes(T* lanes) {
  for (int half = 8; half >= 1; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
  }
  return lanes[0];
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_EXP_H_
