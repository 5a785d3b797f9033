#ifndef KERNELS_CPU_LANES_AVX2_H_
#define KERNELS_CPU_LANES_AVX2_H_

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/exp.h"

namespace sluice::kernels {

// 16 f32 lanes as two ymm. Same interface as Avx512Lanes.
struct Avx2Lanes {
  struct F {
    __m256 low;
    __m256 high;
  };
  struct Pair {
    F even;
    F odd;
  };

  static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F Load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  static void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static F LoadFirst(const float* p, int64_t n) {
    return {_mm256_maskload_ps(p, First8(n)),
            _mm256_maskload_ps(p + 8, First8(n - 8))};
  }
  static void StoreFirst(float* p, F x, int64_t n) {
    _mm256_maskstore_ps(p, First8(n), x.low);
    _mm256_maskstore_ps(p + 8, First8(n - 8), x.high);
  }
  static F Add(F a, F b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static F Sub(F a, F b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static F Mul(F a, F b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static F Div(F a, F b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low),
            _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F Max(F a, F b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static F Min(F a, F b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static F Negate(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(a.low, sign), _mm256_xor_ps(a.high, sign)};
  }
  static F NegativeAbs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(a.low, sign), _mm256_or_ps(a.high, sign)};
  }
  static F FirstElse(F a, F b, int64_t n) {
    return {
        _mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(First8(n))),
        _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(First8(n - 8)))};
  }
  static F WhereNotNegative(F x, F a, F b) {
    const __m256 zero = _mm256_setzero_ps();
    return {
        _mm256_blendv_ps(b.low, a.low, _mm256_cmp_ps(x.low, zero, _CMP_GE_OQ)),
        _mm256_blendv_ps(b.high, a.high,
                         _mm256_cmp_ps(x.high, zero, _CMP_GE_OQ))};
  }
  static uint32_t MaskGe(F a, F b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ)) |
           _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ)) << 8;
  }
  static uint32_t MaskNotLess(F a, F b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_NLT_UQ)) |
           _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_NLT_UQ)) << 8;
  }
  static F Select(uint32_t mask, F a, F b) {
    return {_mm256_blendv_ps(b.low, a.low, Spread(mask)),
            _mm256_blendv_ps(b.high, a.high, Spread(mask >> 8))};
  }
  static float MaxLane(F a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight),
                             _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  }
  static float Fold(F a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight),
                                   _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static Pair LoadPairs(const uint16_t* p) {
    const auto* words = reinterpret_cast<const __m256i*>(p);
    return Widen(_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1));
  }
  static Pair LoadHalfPairs(const uint16_t* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                 _mm256_setzero_si256());
  }
  static F RoundToBf16(F x) { return {Round8(x.low), Round8(x.high)}; }
  static F Exp(F x) { return {Exp8(x.low), Exp8(x.high)}; }
  static F SwapNeighbours(F x) {
    return {_mm256_permute_ps(x.low, 0xb1), _mm256_permute_ps(x.high, 0xb1)};
  }
  static F LoadTwice(const float* p) {
    const __m256 x = _mm256_loadu_ps(p);
    return {
        _mm256_permutevar8x32_ps(x, _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0)),
        _mm256_permutevar8x32_ps(x, _mm256_set_epi32(7, 7, 6, 6, 5, 5, 4, 4))};
  }
  static F NegateEven(F x) {
    const __m256 sign = _mm256_castsi256_ps(_mm256_set1_epi64x(0x80000000));
    return {_mm256_xor_ps(x.low, sign), _mm256_xor_ps(x.high, sign)};
  }

  // 16 sums in f64.
  class Sum64 {
   public:
    void Add(F x) {
      Add4(&sums_[0], _mm256_castps256_ps128(x.low));
      Add4(&sums_[1], _mm256_extractf128_ps(x.low, 1));
      Add4(&sums_[2], _mm256_castps256_ps128(x.high));
      Add4(&sums_[3], _mm256_extractf128_ps(x.high, 1));
    }
    void Store(double* lanes) const {
      for (int i = 0; i < 4; ++i) _mm256_storeu_pd(lanes + i * 4, sums_[i]);
    }

   private:
    static void Add4(__m256d* sum, __m128 x) {
      *sum = _mm256_add_pd(*sum, _mm256_cvtps_pd(x));
    }

    __m256d sums_[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(),
                        _mm256_setzero_pd(), _mm256_setzero_pd()};
  };

 private:
  // All ones in the first n of 8 lanes; n may be negative or above 8.
  static __m256i First8(int64_t n) {
    return _mm256_cmpgt_epi32(
        _mm256_set1_epi32(static_cast<int>(std::clamp<int64_t>(n, 0, 8))),
        _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
  }
  // Bit i of mask in the sign of lane i.
  static __m256 Spread(uint32_t mask) {
    return _mm256_castsi256_ps(
        _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(mask)),
                          _mm256_set_epi32(24, 25, 26, 27, 28, 29, 30, 31)));
  }
  static Pair Widen(__m256i low, __m256i high) {
    const __m256i odd = _mm256_set1_epi32(0xffff0000);
    return {{_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
             _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))},
            {_mm256_castsi256_ps(_mm256_and_si256(low, odd)),
             _mm256_castsi256_ps(_mm256_and_si256(high, odd))}};
  }
  static __m256 Round8(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd =
        _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(
        bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i magnitude =
        _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    rounded = _mm256_blendv_epi8(
        rounded, _mm256_and_si256(bits, _mm256_set1_epi32(0x80000000)),
        _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude));
    rounded = _mm256_blendv_epi8(
        rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)),
        _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000)));
    return _mm256_castsi256_ps(
        _mm256_and_si256(rounded, _mm256_set1_epi32(0xffff0000)));
  }
  static __m256 Exp8(__m256 x) {
    const __m256i n =
        _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(kExpLog2E)));
    const __m256 f = _mm256_cvtepi32_ps(n);
    const __m256 r =
        _mm256_fmadd_ps(f, _mm256_set1_ps(-kExpLn2Low),
                        _mm256_fmadd_ps(f, _mm256_set1_ps(-kExpLn2High), x));
    __m256 p = _mm256_set1_ps(kExpTaylor[7]);
#pragma GCC unroll 8
    for (int i = 6; i >= 0; --i) {
      p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpTaylor[i]));
    }
    p = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
    return _mm256_and_ps(
        p, _mm256_cmp_ps(x, _mm256_set1_ps(kExpLowest), _CMP_GE_OQ));
  }
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_LANES_AVX2_H_
