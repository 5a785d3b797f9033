#include "kvtransfer/block_digest.h"

#include <immintrin.h>

#include <cstring>

#include "base/check.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint64_t kStep = kDigestStep;
constexpr uint64_t kMul1 = 0xBF58476D1CE4E5B9u;
constexpr uint64_t kMul2 = 0x94D049BB133111EBu;

template <bool kCopy>
uint64_t Portable(std::byte* to, const std::byte* from, size_t num_words,
                  uint64_t key) {
  uint64_t sum = 0;
  for (size_t i = 0; i < num_words; ++i, key += kStep) {
    uint64_t word;
    std::memcpy(&word, from + i * 8, 8);
    if (kCopy) std::memcpy(to + i * 8, &word, 8);
    sum += MixWord(word + key);
  }
  return sum;
}

// AVX2 has no 64-bit product: three 32-bit ones make it.
__attribute__((target("avx2"))) inline __m256i Mul256(__m256i x, __m256i y) {
  const __m256i cross =
      _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(x, 32), y),
                       _mm256_mul_epu32(x, _mm256_srli_epi64(y, 32)));
  return _mm256_add_epi64(_mm256_mul_epu32(x, y), _mm256_slli_epi64(cross, 32));
}

__attribute__((target("avx2"))) inline __m256i Mix256(__m256i z) {
  const __m256i m1 = _mm256_set1_epi64x(static_cast<int64_t>(kMul1));
  const __m256i m2 = _mm256_set1_epi64x(static_cast<int64_t>(kMul2));
  z = Mul256(_mm256_xor_si256(z, _mm256_srli_epi64(z, 30)), m1);
  z = Mul256(_mm256_xor_si256(z, _mm256_srli_epi64(z, 27)), m2);
  return _mm256_xor_si256(z, _mm256_srli_epi64(z, 31));
}

template <bool kCopy>
__attribute__((target("avx2"))) uint64_t Avx2(std::byte* to,
                                              const std::byte* from,
                                              size_t num_words, uint64_t key) {
  __m256i keys = _mm256_setr_epi64x(static_cast<int64_t>(key),
                                    static_cast<int64_t>(key + kStep),
                                    static_cast<int64_t>(key + 2 * kStep),
                                    static_cast<int64_t>(key + 3 * kStep));
  const __m256i step = _mm256_set1_epi64x(static_cast<int64_t>(4 * kStep));
  const bool aligned = kCopy && reinterpret_cast<uintptr_t>(to) % 32 == 0;
  __m256i sums = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 4 <= num_words; i += 4) {
    const __m256i words =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i * 8));
    if (kCopy) {
      __m256i* at = reinterpret_cast<__m256i*>(to + i * 8);
      if (aligned) {
        _mm256_stream_si256(at, words);
      } else {
        _mm256_storeu_si256(at, words);
      }
    }
    sums = _mm256_add_epi64(sums, Mix256(_mm256_add_epi64(words, keys)));
    keys = _mm256_add_epi64(keys, step);
  }
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] +
         Portable<kCopy>(to + i * 8, from + i * 8, num_words - i,
                         key + i * kStep);
}

__attribute__((target("avx512f,avx512dq"))) inline __m512i Mix512(__m512i z) {
  const __m512i m1 = _mm512_set1_epi64(static_cast<int64_t>(kMul1));
  const __m512i m2 = _mm512_set1_epi64(static_cast<int64_t>(kMul2));
  z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 30)), m1);
  z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 27)), m2);
  return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}

template <bool kCopy>
__attribute__((target("avx512f,avx512dq"))) uint64_t Avx512(
    std::byte* to, const std::byte* from, size_t num_words, uint64_t key) {
  alignas(64) uint64_t lanes[8];
  for (int lane = 0; lane < 8; ++lane) lanes[lane] = key + lane * kStep;
  __m512i keys = _mm512_load_si512(lanes);
  const __m512i step = _mm512_set1_epi64(static_cast<int64_t>(8 * kStep));
  const bool aligned = kCopy && reinterpret_cast<uintptr_t>(to) % 64 == 0;
  __m512i sums = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + 8 <= num_words; i += 8) {
    const __m512i words = _mm512_loadu_si512(from + i * 8);
    if (kCopy) {
      if (aligned) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i * 8), words);
      } else {
        _mm512_storeu_si512(to + i * 8, words);
      }
    }
    sums = _mm512_add_epi64(sums, Mix512(_mm512_add_epi64(words, keys)));
    keys = _mm512_add_epi64(keys, step);
  }
  _mm512_store_si512(lanes, sums);
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return sum + Portable<kCopy>(to + i * 8, from + i * 8, num_words - i,
                               key + i * kStep);
}

using Loop = uint64_t (*)(std::byte*, const std::byte*, size_t, uint64_t);

template <Loop kLoop>
uint64_t Digest(const std::byte* from, size_t num_words, uint64_t index,
                uint32_t group_id) {
  return kLoop(nullptr, from, num_words, DigestKey(index, group_id));
}

template <Loop kLoop>
uint64_t Copy(std::byte* to, const std::byte* from, size_t num_words,
              uint64_t index, uint32_t group_id) {
  return kLoop(to, from, num_words, DigestKey(index, group_id));
}

constexpr DigestKernels kKernels[] = {
    {Digest<Portable<false>>, Copy<Portable<true>>},
    {Digest<Avx2<false>>, Copy<Avx2<true>>},
    {Digest<Avx512<false>>, Copy<Avx512<true>>},
};

}  // namespace

DigestLevel BestDigestLevel() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw")) {
    return DigestLevel::kAvx512;
  }
  return __builtin_cpu_supports("avx2") ? DigestLevel::kAvx2
                                        : DigestLevel::kPortable;
}

const DigestKernels& DigestKernelsOf(DigestLevel level) {
  SLUICE_CHECK(level <= BestDigestLevel());
  return kKernels[static_cast<int>(level)];
}

const DigestKernels& BestDigestKernels() {
  static const DigestKernels& kernels = DigestKernelsOf(BestDigestLevel());
  return kernels;
}

void StoreFence() { _mm_sfence(); }

}  // namespace sluice::kvtransfer
