#include "kvtransfer/block_digest.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace sluice::kvtransfer {
namespace {

std::vector<DigestLevel> Levels() {
  std::vector<DigestLevel> levels;
  for (int l = 0; l <= static_cast<int>(BestDigestLevel()); ++l) {
    levels.push_back(static_cast<DigestLevel>(l));
  }
  return levels;
}

const std::byte* Bytes(const std::vector<uint64_t>& words, size_t at = 0) {
  return reinterpret_cast<const std::byte*>(words.data() + at);
}

TEST(BlockDigest, MixOfOne) { EXPECT_EQ(MixWord(1), 0x5692161d100b05e5u); }

// kv_transfer.md section 13: group 0, 1 layer, comps 2, 2 heads, head_dim 4
// bf16, tokens 0-3.
TEST(BlockDigest, WorkedExample) {
  const auto part = [](const DigestKernels& kernels, uint32_t head0,
                       uint32_t head1, uint32_t t0, uint32_t t1) {
    uint64_t sum = 0;
    for (uint32_t comp = 0; comp < 2; ++comp) {
      for (uint32_t head = head0; head < head1; ++head) {
        for (uint32_t token = t0; token < t1; ++token) {
          const uint64_t word =
              0x0102030405060708u * (1 + ((comp * 2 + head) * 4 + token));
          const WordIndex index{.comps = 2,
                                .comp = comp,
                                .heads_total = 2,
                                .head = head,
                                .token = token,
                                .words = 1};
          sum += kernels.digest(reinterpret_cast<const std::byte*>(&word), 1,
                                index.Value(), 0);
        }
      }
    }
    return sum;
  };
  for (const DigestLevel level : Levels()) {
    const DigestKernels& k = DigestKernelsOf(level);
    EXPECT_EQ(part(k, 0, 2, 0, 4), 0x9f71e0c512c8a973u);
    EXPECT_EQ(part(k, 0, 1, 0, 4), 0x1c469ac85545ca6au);
    EXPECT_EQ(part(k, 1, 2, 0, 4), 0x832b45fcbd82df09u);
    EXPECT_EQ(part(k, 0, 2, 0, 2), 0x0121a6e2bccaab0bu);
    EXPECT_EQ(part(k, 0, 2, 2, 4), 0x9e5039e255fdfe68u);
  }
}

TEST(BlockDigest, LevelsAgreeAndCopiesAreExact) {
  std::mt19937_64 random(3);
  for (const size_t n : {0, 1, 3, 4, 7, 8, 15, 16, 33, 257}) {
    for (const size_t shift : {0, 1}) {
      std::vector<uint64_t> from(n + 2);
      for (uint64_t& w : from) w = random();
      const uint64_t index = random() >> 20;
      const uint64_t want = DigestKernelsOf(DigestLevel::kPortable)
                                .digest(Bytes(from, shift), n, index, 9);
      for (const DigestLevel level : Levels()) {
        const DigestKernels& k = DigestKernelsOf(level);
        EXPECT_EQ(k.digest(Bytes(from, shift), n, index, 9), want);
        std::vector<uint64_t> to(n + 10, 0xAA);
        std::byte* at = reinterpret_cast<std::byte*>(to.data() + shift);
        EXPECT_EQ(k.copy(at, Bytes(from, shift), n, index, 9), want);
        StoreFence();
        EXPECT_EQ(std::memcmp(at, Bytes(from, shift), n * 8), 0);
        EXPECT_EQ(to[n + shift], 0xAAu);
        EXPECT_TRUE(shift == 0 || to[0] == 0xAAu);
      }
    }
  }
}

TEST(BlockDigest, AddsUpUnderRandomSplits) {
  std::mt19937_64 random(5);
  std::vector<uint64_t> words(512);
  for (uint64_t& w : words) w = random();
  const DigestKernels& k = BestDigestKernels();
  const uint64_t whole = k.digest(Bytes(words), 512, 1000, 2);
  for (int trial = 0; trial < 200; ++trial) {
    uint64_t sum = 0;
    for (size_t at = 0; at < 512;) {
      const size_t n = std::min<size_t>(512 - at, 1 + random() % 100);
      sum += k.digest(Bytes(words, at), n, 1000 + at, 2);
      at += n;
    }
    ASSERT_EQ(sum, whole);
  }
}

TEST(BlockDigest, SeesFlipsAndSwaps) {
  std::mt19937_64 random(7);
  std::vector<uint64_t> words(64);
  for (uint64_t& w : words) w = random();
  const DigestKernels& k = BestDigestKernels();
  const auto digest = [&] { return k.digest(Bytes(words), 64, 77, 1); };
  const uint64_t whole = digest();
  for (int trial = 0; trial < 100'000; ++trial) {
    const uint64_t bit = random() % (64 * 64);
    words[bit / 64] ^= uint64_t{1} << bit % 64;
    ASSERT_NE(digest(), whole);
    words[bit / 64] ^= uint64_t{1} << bit % 64;
  }
  for (int trial = 0; trial < 1000; ++trial) {
    const size_t a = random() % 64, b = random() % 64;
    if (a == b) continue;
    std::swap(words[a], words[b]);
    ASSERT_NE(digest(), whole);
    std::swap(words[a], words[b]);
  }
  EXPECT_EQ(digest(), whole);
  EXPECT_NE(k.digest(Bytes(words), 64, 77, 2), whole);
  EXPECT_NE(k.digest(Bytes(words), 64, 78, 1), whole);
}

}  // namespace
}  // namespace sluice::kvtransfer
