#include <immintrin.h>

#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/byte_sums.h"
#include "kernels/cpu/ops_avx2.h"

namespace sluice::kernels {
namespace {

inline int32_t MaxOfLanes(__m256i v) {
  __m128i x =
      _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

inline int32_t SumOfLanes(__m256i v) {
  __m128i x =
      _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

// Groups of 32 full values; the arithmetic of pack_activations_portable.cc.
void PackInt8(const PackGroup& group, const ActivationBlock& block) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  __m256 x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_loadu_ps(group.x + 8 * i);
    largest = _mm256_max_epi32(
        largest, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
  }
  const int32_t bits = MaxOfLanes(largest);
  float amax;
  __builtin_memcpy(&amax, &bits, sizeof(amax));
  const bool usable = amax >= 0x1p-100f;
  const float d = usable ? amax / 127.0f : 0.0f;
  const __m256 inverse = _mm256_set1_ps(usable ? 127.0f / amax : 0.0f);
  const __m256i all = _mm256_set1_epi32(usable ? -1 : 0);
  __m256i q[4];
  __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
    const __m256i valid = _mm256_and_si256(
        all, _mm256_cmpgt_epi32(q[i], _mm256_set1_epi32(-128)));
    q[i] = _mm256_and_si256(q[i], valid);
    sum = _mm256_add_epi32(sum, q[i]);
  }
  // The packs interleave 128-bit halves; the permutation undoes it.
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
                                           _mm256_packs_epi32(q[2], q[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(block.codes + group.at * kGroupElements),
      _mm256_permutevar8x32_epi32(bytes, order));
  const int32_t total = SumOfLanes(sum);
  block.scale[group.at] = d;
  block.scaled_sum[group.at] = d * static_cast<float>(total);
  block.minus_128_sum[group.at] = -128 * total;
}

// bf16 rounding of numerics section 6 on the bits, widened again.
inline __m256i RoundToBf16(__m256i bits) {
  const __m256i magnitude =
      _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd =
      _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd));
  const __m256i nan =
      _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  const __m256i subnormal =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  __m256i result = _mm256_blendv_epi8(
      rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
  result = _mm256_blendv_epi8(
      result, _mm256_and_si256(bits, _mm256_set1_epi32(INT32_MIN)), subnormal);
  return _mm256_and_si256(result,
                          _mm256_set1_epi32(static_cast<int>(0xffff0000)));
}

void PackBf16(const PackGroup& group, const ActivationBlock& block) {
  float* values = block.values + group.at * kGroupElements;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const float* x = group.x + 16 * i;
    const __m256 low = _mm256_castsi256_ps(
        RoundToBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))));
    const __m256 high = _mm256_castsi256_ps(RoundToBf16(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 8))));
    // Even or odd elements in the order 0-1 of low, high, then 2-3.
    const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
    const __m256d odd = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
    _mm256_storeu_ps(values + 8 * i,
                     _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xd8)));
    _mm256_storeu_ps(values + 16 + 8 * i,
                     _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xd8)));
  }
  // The pairs of a chain: members 2i and 2i + 1 are one 64-bit lane.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i lanes =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 8 * i));
    const __m256i pairs = _mm256_or_si256(lanes, _mm256_srli_epi64(lanes, 48));
    const __m256i first = _mm256_permutevar8x32_epi32(
        pairs, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.pairs[group.at] + 4 * i),
                     _mm256_castsi256_si128(first));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256i even =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 8 * i));
    const __m256i odd = _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(values + 16 + 8 * i));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(block.tile_rows[group.at] + 32 * i),
        _mm256_or_si256(odd, _mm256_srli_epi32(even, 16)));
  }
}

void PackF32(const PackGroup& group, const ActivationBlock& block) {
  float* values = block.values + group.at * kGroupElements;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(values + 8 * i, _mm256_loadu_ps(group.x + 8 * i));
  }
}

// As PackInt8(), with one scale for 256 values.
void PackInt8Super(const PackGroup& group, const ActivationBlock& block) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < kSuperElements; i += 8) {
    const __m256i bits =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group.x + i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
  }
  const int32_t bits = MaxOfLanes(largest);
  float amax;
  __builtin_memcpy(&amax, &bits, sizeof(amax));
  const bool usable = amax >= 0x1p-100f;
  const float d = usable ? amax / 127.0f : 0.0f;
  const __m256 inverse = _mm256_set1_ps(usable ? 127.0f / amax : 0.0f);
  const __m256i all = _mm256_set1_epi32(usable ? -1 : 0);
  for (int i = 0; i < kSuperElements; i += 16) {
    const int64_t at = group.at + i / kGroupElements * block.height;
    __m256i q[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      q[h] = _mm256_cvtps_epi32(
          _mm256_mul_ps(_mm256_loadu_ps(group.x + i + 8 * h), inverse));
      const __m256i valid = _mm256_and_si256(
          all, _mm256_cmpgt_epi32(q[h], _mm256_set1_epi32(-128)));
      q[h] = _mm256_and_si256(q[h], valid);
    }
    // The pack interleaves 128-bit halves; the permutation undoes it.
    const __m256i words =
        _mm256_permute4x64_epi64(_mm256_packs_epi32(q[0], q[1]), 0xd8);
    const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words),
                                          _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(block.codes + at * kGroupElements + i % 32),
        codes);
    block.half_sums[at][i / 16 % 2] = SumOfBytes(codes);
    block.scale[at] = d;
  }
  PairSums(group, block);
  TileRows(group, block);
}

}  // namespace

const PackFns kPackAvx2 = {{PackInt8, PackBf16, PackF32, PackInt8Super},
                           &kRowMathAvx2};

void PackActivationsAvx2(const OpContext& context,
                         const PackActivationsArgs& args) {
  RunPackActivations(context, args, kPackAvx2);
}

}  // namespace sluice::kernels
