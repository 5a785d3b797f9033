#ifndef KERNELS_CPU_BYTE_SUMS_H_
#define KERNELS_CPU_BYTE_SUMS_H_

#include <immintrin.h>

#include <cstdint>

// Of internal linkage: each level's file gets a copy of its own.
namespace sluice::kernels {
namespace {

// Sum of 16 signed bytes, by SSE2.
inline int16_t SumOfBytes(__m128i codes) {
  const __m128i sums = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)),
                                    _mm_setzero_si128());
  return static_cast<int16_t>(_mm_cvtsi128_si32(sums) +
                              _mm_extract_epi16(sums, 4) - 16 * 128);
}

}  // namespace
}  // namespace sluice::kernels

#endif  // KERNELS_CPU_BYTE_SUMS_H_
