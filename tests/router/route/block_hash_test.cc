#include "router/route/block_hash.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sluice::router {
namespace {

using Ids = std::vector<uint32_t>;

const std::string& Fingerprint() {
  static const auto* fingerprint = [] {
    auto* bytes = new std::string;
    for (int i = 0; i < 32; ++i) bytes->push_back(static_cast<char>(i));
    return bytes;
  }();
  return *fingerprint;
}

// Computed apart from this code, by Python's hashlib over the byte strings
// of spec/kv_cache.md section 5.1.
TEST(BlockHashTest, KnownValues) {
  const auto hashes = CacheableBlockHashes({.fingerprint = Fingerprint()}, 4,
                                           Ids{1, 2, 3, 4, 5, 6, 7, 8, 9});
  ASSERT_EQ(hashes.size(), 2u);
  EXPECT_EQ(hashes[0], 0xe7d945bd1b59a29bu);
  EXPECT_EQ(hashes[1], 0x7c2e3c38f8b2e070u);
  const auto salted = CacheableBlockHashes(
      {.fingerprint = Fingerprint(), .salt = "tenant"}, 4, Ids{1, 2, 3, 4, 5});
  ASSERT_EQ(salted.size(), 1u);
  EXPECT_EQ(salted[0], 0xd1f94d3696439ddeu);
}

TEST(BlockHashTest, OneTokenIsAlwaysComputed) {
  for (const auto& [length, blocks] : std::vector<std::pair<size_t, size_t>>{
           {0, 0}, {1, 0}, {4, 0}, {5, 1}, {8, 1}, {9, 2}, {13, 3}}) {
    EXPECT_EQ(
        CacheableBlockHashes({.fingerprint = Fingerprint()}, 4, Ids(length, 7))
            .size(),
        blocks)
        << length;
  }
}

TEST(BlockHashTest, PrefixesShareAndSizesDoNot) {
  const BlockHashRoot root{.fingerprint = Fingerprint()};
  const auto a = CacheableBlockHashes(root, 4, Ids{1, 2, 3, 4, 5, 6, 7, 8, 9});
  const auto b = CacheableBlockHashes(root, 4, Ids{1, 2, 3, 4, 5, 6, 7, 0, 9});
  const auto c = CacheableBlockHashes(root, 8, Ids{1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(a[0], b[0]);
  EXPECT_NE(a[1], b[1]);
  EXPECT_NE(a[0], c[0]);
}

}  // namespace
}  // namespace sluice::router
