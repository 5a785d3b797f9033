#ifndef KERNELS_CPU_RANDOM_AVX2_H_
#define KERNELS_CPU_RANDOM_AVX2_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes_avx2.h"
#include "kernels/philox.h"

namespace sluice::kernels {

// The integer side of sampling for AVX2: 8 Philox counters at once, and token
// masses. Same interface as Avx512Random.
struct Avx2Random {
  static void Words(const RandomStream& stream, uint32_t quad,
                    uint32_t* words) {
    Words32(stream, quad, words);
    Words32(stream, quad + 8, words + 32);
  }

  static uint32_t MaskAtMost(const uint32_t* words, Avx2Lanes::F half_limit) {
    return MaskAtMost8(words, half_limit.low) |
           MaskAtMost8(words + 8, half_limit.high) << 8;
  }

  class Mass {
   public:
    void Add(Avx2Lanes::F exp_z) {
      Add4(_mm256_castps256_ps128(exp_z.low));
      Add4(_mm256_extractf128_ps(exp_z.low, 1));
      Add4(_mm256_castps256_ps128(exp_z.high));
      Add4(_mm256_extractf128_ps(exp_z.high, 1));
    }
    uint64_t Total() const {
      alignas(32) uint64_t parts[4];
      _mm256_store_si256(reinterpret_cast<__m256i*>(parts), sum_);
      return parts[0] + parts[1] + parts[2] + parts[3];
    }

   private:
    // trunc(2^40 x) of four floats: the mantissa shifted by the exponent. A
    // shift count outside 0 .. 63 gives 0, so one of the two shifts does it.
    void Add4(__m128 x) {
      const __m256i bits = _mm256_cvtepu32_epi64(_mm_castps_si128(x));
      const __m256i exponent = _mm256_srli_epi64(bits, 23);
      const __m256i mantissa =
          _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi64x(0x7fffff)),
                          _mm256_set1_epi64x(0x800000));
      // Value: mantissa * 2^(exponent - 127 - 23 + 40).
      const __m256i bias = _mm256_set1_epi64x(110);
      sum_ = _mm256_add_epi64(
          sum_,
          _mm256_or_si256(
              _mm256_sllv_epi64(mantissa, _mm256_sub_epi64(exponent, bias)),
              _mm256_srlv_epi64(mantissa, _mm256_sub_epi64(bias, exponent))));
    }

    __m256i sum_ = _mm256_setzero_si256();
  };

 private:
  struct Product {
    __m256i low;
    __m256i high;
  };
  static __m256i Set(uint64_t x) {
    return _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(x)));
  }
  static Product Multiply(__m256i x, __m256i multiplier) {
    const __m256i even = _mm256_mul_epu32(x, multiplier);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), multiplier);
    return {_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa),
            _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
  }
  static __m256i Xor(__m256i a, __m256i b, __m256i c) {
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
  }
  static uint32_t MaskAtMost8(const uint32_t* words, __m256 half_limit) {
    const __m256 half = _mm256_cvtepi32_ps(_mm256_srli_epi32(
        _mm256_load_si256(reinterpret_cast<const __m256i*>(words)), 1));
    return _mm256_movemask_ps(_mm256_cmp_ps(half, half_limit, _CMP_LE_OQ));
  }

  // 8 counters, 32 words.
  static void Words32(const RandomStream& stream, uint32_t quad,
                      uint32_t* words) {
    // Element 4 i + j runs counter 2 j + i: see Avx512Random.
    const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    __m256i x0 =
        _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(quad)), order);
    __m256i x1 = Set(static_cast<uint32_t>(stream.purpose));
    __m256i x2 = Set(static_cast<uint64_t>(stream.position));
    __m256i x3 = Set(static_cast<uint64_t>(stream.position) >> 32);
    uint32_t k0 = static_cast<uint32_t>(stream.seed);
    uint32_t k1 = static_cast<uint32_t>(stream.seed >> 32);
    const __m256i m0 = Set(0xd2511f53);
    const __m256i m1 = Set(0xcd9e8d57);
    for (int round = 0; round < 10; ++round) {
      const Product p0 = Multiply(x0, m0);
      const Product p1 = Multiply(x2, m1);
      x0 = Xor(p1.high, x1, Set(k0));
      x1 = p1.low;
      x2 = Xor(p0.high, x3, Set(k1));
      x3 = p0.low;
      k0 += 0x9e3779b9;
      k1 += 0xbb67ae85;
    }
    const __m256i a = _mm256_unpacklo_epi32(x0, x1);
    const __m256i b = _mm256_unpackhi_epi32(x0, x1);
    const __m256i c = _mm256_unpacklo_epi32(x2, x3);
    const __m256i d = _mm256_unpackhi_epi32(x2, x3);
    auto* out = reinterpret_cast<__m256i*>(words);
    _mm256_store_si256(out, _mm256_unpacklo_epi64(a, c));
    _mm256_store_si256(out + 1, _mm256_unpackhi_epi64(a, c));
    _mm256_store_si256(out + 2, _mm256_unpacklo_epi64(b, d));
    _mm256_store_si256(out + 3, _mm256_unpackhi_epi64(b, d));
  }
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_RANDOM_AVX2_H_
