#ifndef KERNELS_CPU_CODE_LINES_AVX2_H_
#define KERNELS_CPU_CODE_LINES_AVX2_H_

#include <immintrin.h>

#include <cstdint>

// What the AVX2 tiles share: reading lines of packed weights
// (kernels/README.md) by halves of 8 columns. Of internal linkage, for files of
// that level alone.
namespace sluice::kernels {
namespace {

inline int32_t Word(const void* bytes) {
  int32_t word;
  __builtin_memcpy(&word, bytes, sizeof(word));
  return word;
}
inline __m256i Broadcast(const void* bytes) {
  return _mm256_set1_epi32(Word(bytes));
}

inline __m256i Load(const void* bytes) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

inline __m256 Halves(const uint16_t* f16) {
  return _mm256_cvtph_ps(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(f16)));
}

// Line k of eight that are two to a stored line.
inline __m256i Nibbles(const uint8_t (*codes)[64], int k, int half) {
  const __m256i both = Load(codes[k / 2] + half * 32);
  return _mm256_and_si256(k % 2 == 0 ? both : _mm256_srli_epi16(both, 4),
                          _mm256_set1_epi8(15));
}

// The field of `width` bits, 1 or 2, from bit `from` of each byte, as bits 4
// and on: what stands above a nibble.
inline __m256i Plane(const uint8_t* plane, int from, int width) {
  const __m256i bits = Load(plane);
  const __m256i moved = from <= 4 ? _mm256_slli_epi16(bits, 4 - from)
                                  : _mm256_srli_epi16(bits, from - 4);
  return _mm256_and_si256(
      moved, _mm256_set1_epi8(static_cast<char>(width == 1 ? 0x10 : 0x30)));
}

}  // namespace
}  // namespace sluice::kernels

#endif  // KERNELS_CPU_CODE_LINES_AVX2_H_
