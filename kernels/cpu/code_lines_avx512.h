#ifndef KERNELS_CPU_CODE_LINES_AVX512_H_
#define KERNELS_CPU_CODE_LINES_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/packed_layout.h"

// What the AVX-512 tiles share: reading lines of packed weights
// (kernels/README.md), and accumulators. Of internal linkage, for files of that
// level alone. Loops over accumulators are unrolled by pragma: otherwise GCC 12
// keeps the arrays in memory.
namespace sluice::kernels {
namespace {

// Weights come once from memory when rows are few, and from L2 for the tiles
// after the first when they are many. Measured on Zen 4: into L2 is better than
// into L1 at all heights but two. A row's panels are streams that share the
// distance, but less than a group ahead would help nobody.
template <int kBytes, int kPanels, int kRows>
inline void PrefetchAhead(const void* group) {
  constexpr int kShared =
      4096 / kPanels >= kBytes ? 4096 / kPanels : 2 * kBytes;
  constexpr int kAhead = kRows > 2 ? 4096 : kShared;
  const char* at = static_cast<const char*>(group) + kAhead;
#pragma GCC unroll 32
  for (int i = 0; i < kBytes; i += 64) {
    _mm_prefetch(at + i, kRows == 2 ? _MM_HINT_T0 : _MM_HINT_T1);
  }
}

inline int32_t Word(const void* bytes) {
  int32_t word;
  __builtin_memcpy(&word, bytes, sizeof(word));
  return word;
}

inline __m512 Halves(const uint16_t* f16) {
  return _mm512_cvtph_ps(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(f16)));
}

// Line k of eight that are two to a stored line.
inline __m512i Nibbles(const uint8_t (*codes)[64], int k) {
  const __m512i both = _mm512_loadu_si512(codes[k / 2]);
  return _mm512_and_si512(k % 2 == 0 ? both : _mm512_srli_epi16(both, 4),
                          _mm512_set1_epi8(15));
}

// The field of `width` bits, 1 or 2, from bit `from` of each byte, as bits 4
// and on: what stands above a nibble.
inline __m512i Plane(const uint8_t* plane, int from, int width) {
  const __m512i bits = _mm512_loadu_si512(plane);
  const __m512i moved =
      from <= 4 ? _mm512_slli_epi16(bits, static_cast<unsigned>(4 - from))
                : _mm512_srli_epi16(bits, static_cast<unsigned>(from - 4));
  return _mm512_and_si512(
      moved, _mm512_set1_epi8(static_cast<char>(width == 1 ? 0x10 : 0x30)));
}

template <int kRows, int kPanels>
inline void Zero(__m512 (&f)[kRows][kPanels]) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) f[m][p] = _mm512_setzero_ps();
  }
}

template <int kRows, int kPanels>
inline void StoreOut(const __m512 (&f)[kRows][kPanels], float* out) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      _mm512_store_ps(out + (m * kPanels + p) * kPanelColumns, f[m][p]);
    }
  }
}

}  // namespace
}  // namespace sluice::kernels

#endif  // KERNELS_CPU_CODE_LINES_AVX512_H_
