#ifndef KERNELS_CPU_RANDOM_AVX512_H_
#define KERNELS_CPU_RANDOM_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/philox.h"

namespace sluice::kernels {

// The integer side of sampling for AVX-512: 16 Philox counters at once, and
// token masses. Same interface as Avx2Random.
struct Avx512Random {
  // Words of lanes 4 * quad .. 4 * quad + 63 in order; 64-byte aligned.
  static void Words(const RandomStream& stream, uint32_t quad,
                    uint32_t* words) {
    // Element 4 i + j runs counter 4 j + i, so that turning 4 x 4 words inside
    // each quarter leaves the words in order.
    const __m512i order =
        _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    __m512i x0 =
        _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(quad)), order);
    __m512i x1 = Set(static_cast<uint32_t>(stream.purpose));
    __m512i x2 = Set(static_cast<uint64_t>(stream.position));
    __m512i x3 = Set(static_cast<uint64_t>(stream.position) >> 32);
    uint32_t k0 = static_cast<uint32_t>(stream.seed);
    uint32_t k1 = static_cast<uint32_t>(stream.seed >> 32);
    const __m512i m0 = Set(0xd2511f53);
    const __m512i m1 = Set(0xcd9e8d57);
    for (int round = 0; round < 10; ++round) {
      const Product p0 = Multiply(x0, m0);
      const Product p1 = Multiply(x2, m1);
      x0 = _mm512_ternarylogic_epi32(p1.high, x1, Set(k0), 0x96);
      x1 = p1.low;
      x2 = _mm512_ternarylogic_epi32(p0.high, x3, Set(k1), 0x96);
      x3 = p0.low;
      k0 += 0x9e3779b9;
      k1 += 0xbb67ae85;
    }
    const __m512i a = _mm512_unpacklo_epi32(x0, x1);
    const __m512i b = _mm512_unpackhi_epi32(x0, x1);
    const __m512i c = _mm512_unpacklo_epi32(x2, x3);
    const __m512i d = _mm512_unpackhi_epi32(x2, x3);
    _mm512_store_si512(words, _mm512_unpacklo_epi64(a, c));
    _mm512_store_si512(words + 16, _mm512_unpackhi_epi64(a, c));
    _mm512_store_si512(words + 32, _mm512_unpacklo_epi64(b, d));
    _mm512_store_si512(words + 48, _mm512_unpackhi_epi64(b, d));
  }

  // Bit i: words[i] / 2, rounded down, is at most half_limit[i].
  static uint32_t MaskAtMost(const uint32_t* words, __m512 half_limit) {
    const __m512 half =
        _mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_load_si512(words), 1));
    return _mm512_cmp_ps_mask(half, half_limit, _CMP_LE_OQ);
  }

  // A running sum of TokenMass(), of values exp(z).
  class Mass {
   public:
    void Add(__m512 exp_z) {
      const __m512 scaled = _mm512_mul_ps(exp_z, _mm512_set1_ps(0x1p40f));
      low_ = _mm512_add_epi64(
          low_, _mm512_cvttps_epu64(_mm512_castps512_ps256(scaled)));
      high_ = _mm512_add_epi64(
          high_, _mm512_cvttps_epu64(_mm512_extractf32x8_ps(scaled, 1)));
    }
    uint64_t Total() const {
      return static_cast<uint64_t>(
          _mm512_reduce_add_epi64(_mm512_add_epi64(low_, high_)));
    }

   private:
    __m512i low_ = _mm512_setzero_si512();
    __m512i high_ = _mm512_setzero_si512();
  };

 private:
  struct Product {
    __m512i low;
    __m512i high;
  };
  static __m512i Set(uint64_t x) {
    return _mm512_set1_epi32(static_cast<int>(static_cast<uint32_t>(x)));
  }
  static Product Multiply(__m512i x, __m512i multiplier) {
    const __m512i even = _mm512_mul_epu32(x, multiplier);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), multiplier);
    return {_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32)),
            _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd)};
  }
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_RANDOM_AVX512_H_
