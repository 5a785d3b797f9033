#include "kvtransfer/tile_digest.h"

#include <cstring>

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kTile = 16;

// GCC would stay with 256-bit vectors; clang does not know the wish.
#if defined(__clang__)
#define SLUICE_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl")))
#else
#define SLUICE_AVX512                     \
  __attribute__((                         \
      target("avx512f,avx512dq,avx512vl," \
             "prefer-vector-width=512")))
#endif

template <typename T>
__attribute__((always_inline)) inline T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// A word of a token is two neighbours of its column: lanes are the tokens.
__attribute__((always_inline)) inline uint64_t KeySum(const TileShape& shape,
                                                      const std::byte* tile) {
  const uint32_t words = shape.head_dim / 4;
  uint64_t sums[kTile] = {};
  uint64_t keys[kTile];
  for (uint32_t t = 0; t < kTile; ++t) {
    keys[t] = shape.key + uint64_t{t} * words * kDigestStep;
  }
  for (uint32_t w = 0; w < words; ++w, tile += 2 * kTile * 4) {
    for (uint32_t t = 0; t < kTile; ++t) {
      const uint64_t low = Load<uint32_t>(tile + t * 4);
      const uint64_t high = Load<uint32_t>(tile + (kTile + t) * 4);
      sums[t] += MixWord((low | high << 32) + keys[t]);
      keys[t] += kDigestStep;
    }
  }
  uint64_t sum = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) sum += sums[t];
  return sum;
}

// Two tokens are interleaved value by value: lanes are the words.
__attribute__((always_inline)) inline uint64_t ValueSum(const TileShape& shape,
                                                        const std::byte* tile) {
  const uint32_t words = shape.head_dim / 4;
  uint64_t sum = 0;
  for (uint32_t token = 0; token < shape.tokens; token += 2) {
    const uint64_t even_key = shape.key + uint64_t{token} * words * kDigestStep;
    const uint64_t odd_key = even_key + words * kDigestStep;
    uint64_t even = 0;
    uint64_t odd = 0;
    for (uint32_t w = 0; w < words; ++w) {
      const uint64_t a = Load<uint64_t>(tile + w * 16);
      const uint64_t b = Load<uint64_t>(tile + w * 16 + 8);
      const uint64_t first = (a & 0xFFFF) | (a >> 16 & 0xFFFF0000) |
                             (b & 0xFFFF) << 32 |
                             (b << 16 & 0xFFFF000000000000);
      const uint64_t second = (a >> 16 & 0xFFFF) | (a >> 32 & 0xFFFF0000) |
                              (b << 16 & 0x0000FFFF00000000) |
                              (b & 0xFFFF000000000000);
      even += MixWord(first + even_key + w * kDigestStep);
      odd += MixWord(second + odd_key + w * kDigestStep);
    }
    sum += even;
    if (token + 1 < shape.tokens) sum += odd;
    tile += uint64_t{shape.head_dim} * 4;
  }
  return sum;
}

uint64_t Portable(const TileShape& shape, const std::byte* tile) {
  return shape.is_key ? KeySum(shape, tile) : ValueSum(shape, tile);
}

__attribute__((target("avx2"))) uint64_t Avx2(const TileShape& shape,
                                              const std::byte* tile) {
  return shape.is_key ? KeySum(shape, tile) : ValueSum(shape, tile);
}

SLUICE_AVX512 uint64_t Avx512(const TileShape& shape, const std::byte* tile) {
  return shape.is_key ? KeySum(shape, tile) : ValueSum(shape, tile);
}

}  // namespace

uint64_t DigestTileWordsAt(DigestLevel level, const TileShape& shape,
                           const std::byte* tile) {
  switch (level) {
    case DigestLevel::kAvx512:
      return Avx512(shape, tile);
    case DigestLevel::kAvx2:
      return Avx2(shape, tile);
    default:
      return Portable(shape, tile);
  }
}

uint64_t DigestTileWords(const TileShape& shape, const std::byte* tile) {
  static const DigestLevel level = BestDigestLevel();
  return DigestTileWordsAt(level, shape, tile);
}

}  // namespace sluice::kvtransfer
