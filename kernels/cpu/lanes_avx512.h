#ifndef KERNELS_CPU_LANES_AVX512_H_
#define KERNELS_CPU_LANES_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/exp.h"

namespace sluice::kernels {

// 16 f32 lanes as one zmm. Same interface as Avx2Lanes, so that an op written
// over lanes serves both levels.
struct Avx512Lanes {
  using F = __m512;
  struct Pair {  // even and odd 16-bit halves of 16 words, widened
    F even;
    F odd;
  };

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static __mmask16 First(int64_t n) {
    return static_cast<__mmask16>((1u << n) - 1);
  }
  // The first n lanes, 0 <= n <= 16; the others are +0 and not touched.
  static F LoadFirst(const float* p, int64_t n) {
    return _mm512_maskz_loadu_ps(First(n), p);
  }
  static void StoreFirst(float* p, F x, int64_t n) {
    _mm512_mask_storeu_ps(p, First(n), x);
  }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Negate(F a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
  static F NegativeAbs(F a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }
  // a where the lane index is below n, else b.
  static F FirstElse(F a, F b, int64_t n) {
    return _mm512_mask_mov_ps(b, First(n), a);
  }
  // a where x >= 0, else b.
  static F WhereNotNegative(F x, F a, F b) {
    return _mm512_mask_mov_ps(
        b, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), a);
  }
  // Bit i: lane i of a >= b (false for NaN).
  static uint32_t MaskGe(F a, F b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
  }
  // Bit i: not a < b, so a NaN counts.
  static uint32_t MaskNotLess(F a, F b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ);
  }
  // a where bit i of mask is set, else b.
  static F Select(uint32_t mask, F a, F b) {
    return _mm512_mask_mov_ps(b, static_cast<__mmask16>(mask), a);
  }
  static float MaxLane(F a) { return _mm512_reduce_max_ps(a); }
  // Lanes folded 8, 4, 2, 1.
  static float Fold(F a) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight),
                                   _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  // 16 words of two bf16 each.
  static Pair LoadPairs(const uint16_t* p) {
    return Widen(_mm512_loadu_si512(p));
  }
  // The first 8 words; the other lanes are +0.
  static Pair LoadHalfPairs(const uint16_t* p) {
    return Widen(_mm512_maskz_loadu_epi32(0xff, p));
  }
  // F32ToBf16() widened again: nearest even, subnormals to signed zero.
  static F RoundToBf16(F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd =
        _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(
        bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i magnitude =
        _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    rounded = _mm512_mask_and_epi32(
        rounded,
        _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x00800000)), bits,
        _mm512_set1_epi32(0x80000000));
    rounded = _mm512_mask_or_epi32(
        rounded,
        _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000)), bits,
        _mm512_set1_epi32(0x00400000));
    return _mm512_castsi512_ps(
        _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff0000)));
  }
  // CPU numerics section 7; lanes equal ExpNonPositive().
  static F Exp(F x) {
    const __m512i n =
        _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(kExpLog2E)));
    const F f = _mm512_cvtepi32_ps(n);
    const F r = Fma(f, Set(-kExpLn2Low), Fma(f, Set(-kExpLn2High), x));
    F p = Set(kExpTaylor[7]);
#pragma GCC unroll 8
    for (int i = 6; i >= 0; --i) p = Fma(p, r, Set(kExpTaylor[i]));
    p = _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(n, 23)));
    return _mm512_maskz_mov_ps(
        _mm512_cmp_ps_mask(x, Set(kExpLowest), _CMP_GE_OQ), p);
  }
  // Neighbouring lanes (2i, 2i + 1) swapped.
  static F SwapNeighbours(F x) { return _mm512_permute_ps(x, 0xb1); }
  // Lane i of the result is p[i / 2]; reads 8 values.
  static F LoadTwice(const float* p) {
    const __m512i index =
        _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(index,
                                 _mm512_castps256_ps512(_mm256_loadu_ps(p)));
  }
  // Even lanes negated.
  static F NegateEven(F x) {
    return _mm512_xor_ps(x, _mm512_castsi512_ps(_mm512_set1_epi64(0x80000000)));
  }

  // 16 sums in f64.
  class Sum64 {
   public:
    void Add(F x) {
      low_ = _mm512_add_pd(low_, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
      high_ =
          _mm512_add_pd(high_, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
    }
    void Store(double* lanes) const {
      _mm512_storeu_pd(lanes, low_);
      _mm512_storeu_pd(lanes + 8, high_);
    }

   private:
    __m512d low_ = _mm512_setzero_pd();
    __m512d high_ = _mm512_setzero_pd();
  };

 private:
  static Pair Widen(__m512i words) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(words, _mm512_set1_epi32(0xffff0000)))};
  }
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_LANES_AVX512_H_
