#include <immintrin.h>

#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/byte_sums.h"
#include "kernels/cpu/ops_avx512.h"

namespace sluice::kernels {
namespace {

// Groups of 32 full values; the arithmetic of pack_activations_portable.cc.
void PackInt8(const PackGroup& group, const ActivationBlock& block) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512 low = _mm512_loadu_ps(group.x);
  const __m512 high = _mm512_loadu_ps(group.x + 16);
  const int32_t largest = _mm512_reduce_max_epi32(
      _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                       _mm512_and_si512(_mm512_castps_si512(high), magnitude)));
  float amax;
  __builtin_memcpy(&amax, &largest, sizeof(amax));
  const bool usable = amax >= 0x1p-100f;
  const float d = usable ? amax / 127.0f : 0.0f;
  const float inverse = usable ? 127.0f / amax : 0.0f;
  const __mmask16 all = usable ? 0xffff : 0;
  const __m512i least = _mm512_set1_epi32(-127);
  __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(low, _mm512_set1_ps(inverse)));
  __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(high, _mm512_set1_ps(inverse)));
  q0 = _mm512_maskz_mov_epi32(_mm512_mask_cmpge_epi32_mask(all, q0, least), q0);
  q1 = _mm512_maskz_mov_epi32(_mm512_mask_cmpge_epi32_mask(all, q1, least), q1);
  __m128i* codes =
      reinterpret_cast<__m128i*>(block.codes + group.at * kGroupElements);
  _mm_storeu_si128(codes, _mm512_cvtepi32_epi8(q0));
  _mm_storeu_si128(codes + 1, _mm512_cvtepi32_epi8(q1));
  const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
  block.scale[group.at] = d;
  block.scaled_sum[group.at] = d * static_cast<float>(sum);
  block.minus_128_sum[group.at] = -128 * sum;
}

// bf16 rounding of numerics section 6 on the bits, widened again.
__m512i RoundToBf16(__m512i bits) {
  const __m512i magnitude =
      _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i one = _mm512_set1_epi32(1);
  const __m512i kept = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i rounded =
      _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd));
  const __mmask16 nan =
      _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  const __mmask16 subnormal =
      _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x00800000));
  __m512i result = _mm512_mask_mov_epi32(
      rounded, nan, _mm512_or_si512(bits, _mm512_set1_epi32(0x400000)));
  result = _mm512_mask_and_epi32(result, subnormal, bits,
                                 _mm512_set1_epi32(INT32_MIN));
  return _mm512_and_si512(result, kept);
}

void PackBf16(const PackGroup& group, const ActivationBlock& block) {
  const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12,
                                         10, 8, 6, 4, 2, 0);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  const __m512i low = RoundToBf16(_mm512_loadu_si512(group.x));
  const __m512i high = RoundToBf16(_mm512_loadu_si512(group.x + 16));
  float* values = block.values + group.at * kGroupElements;
  const __m512i even = _mm512_permutex2var_epi32(low, evens, high);
  const __m512i odd = _mm512_permutex2var_epi32(low, odds, high);
  _mm512_storeu_si512(values, even);
  _mm512_storeu_si512(values + 16, odd);
  // Members 2i and 2i + 1 of a chain, of the even one before the odd one.
  const __m512i earlier = _mm512_permutex2var_epi32(even, evens, odd);
  const __m512i later = _mm512_permutex2var_epi32(even, odds, odd);
  _mm512_storeu_si512(block.pairs[group.at],
                      _mm512_or_si512(earlier, _mm512_srli_epi32(later, 16)));
  _mm512_storeu_si512(block.tile_rows[group.at],
                      _mm512_or_si512(odd, _mm512_srli_epi32(even, 16)));
}

void PackF32(const PackGroup& group, const ActivationBlock& block) {
  float* values = block.values + group.at * kGroupElements;
  _mm512_storeu_ps(values, _mm512_loadu_ps(group.x));
  _mm512_storeu_ps(values + 16, _mm512_loadu_ps(group.x + 16));
}

// As PackInt8(), with one scale for 256 values.
void PackInt8Super(const PackGroup& group, const ActivationBlock& block) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  for (int i = 0; i < kSuperElements; i += 16) {
    most = _mm512_max_epi32(
        most, _mm512_and_si512(_mm512_loadu_si512(group.x + i), magnitude));
  }
  const int32_t largest = _mm512_reduce_max_epi32(most);
  float amax;
  __builtin_memcpy(&amax, &largest, sizeof(amax));
  const bool usable = amax >= 0x1p-100f;
  const float d = usable ? amax / 127.0f : 0.0f;
  const __m512 inverse = _mm512_set1_ps(usable ? 127.0f / amax : 0.0f);
  const __mmask16 all = usable ? 0xffff : 0;
  for (int i = 0; i < kSuperElements; i += 16) {
    const int64_t at = group.at + i / kGroupElements * block.height;
    const __m512i q = _mm512_cvtps_epi32(
        _mm512_mul_ps(_mm512_loadu_ps(group.x + i), inverse));
    const __mmask16 valid =
        _mm512_mask_cmpge_epi32_mask(all, q, _mm512_set1_epi32(-127));
    const __m128i codes =
        _mm512_cvtepi32_epi8(_mm512_maskz_mov_epi32(valid, q));
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

const PackFns kPackAvx512 = {{PackInt8, PackBf16, PackF32, PackInt8Super},
                             &kRowMathAvx512};

void PackActivationsAvx512(const OpContext& context,
                           const PackActivationsArgs& args) {
  RunPackActivations(context, args, kPackAvx512);
}

}  // namespace sluice::kernels
