// Hashes, lookup, commit, eviction (KV cache specification, sections 5, 6, 10).
#include "worker/cache/prefix_cache.h"

#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::worker {
namespace {

using Ids = std::vector<BlockId>;

HashRoot TinyRoot(const std::string& salt = "",
                  const std::string& adapter = "") {
  return {ToBytes(Sha256Of("tiny-model")), adapter, salt};
}

std::vector<TokenId> Iota(int count) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 1);
  return tokens;
}

TEST(PrefixHashTest, WorkedExamples) {
  const std::string fingerprint = ToHex(Sha256Of("tiny-model"));
  EXPECT_EQ(fingerprint.substr(0, 8), "ccdbfb99");
  EXPECT_EQ(fingerprint.substr(60), "548c");
  const BlockHash root = RootHash(TinyRoot());
  EXPECT_EQ(ToHex(root),
            "b3232026145b27d41609922ac54a9924ac84161a6bcf1cfe95adf3a8b24933e0");
  const std::vector<TokenId> tokens = Iota(8);
  const auto span = absl::MakeConstSpan(tokens);
  const BlockHash h0 = ChainedHash(root, span.first(4), {});
  EXPECT_EQ(ToHex(h0),
            "eed0b563abe7b4943fb9dee9552cbf40d7c61ed4167ac6d8ecfabd29c8deb1ef");
  EXPECT_EQ(ToHex(ChainedHash(h0, span.last(4), {})),
            "a078f9a88cba74263b19390ece3d57dfc925c0a6b3761bdbe978dba94c8b9b03");
  const BlockExtra image{.offset = 2, .content = Sha256Of("image-1")};
  EXPECT_EQ(ToHex(ChainedHash(h0, span.last(4), {&image, 1})),
            "a31c0acc3e8d36a59128c471b095f5e2bb6404013fbb2538fffaf1b92b378069");
  const BlockHash salted = RootHash(TinyRoot("tenant-a"));
  EXPECT_EQ(ToHex(salted).substr(0, 8), "5a2ccc22");
  EXPECT_EQ(ToHex(salted).substr(60), "5c6f");
  EXPECT_EQ(ToHex(ChainedHash(salted, span.first(4), {})),
            "55bad635df23fbf87c9a37c30c42515e7ea90ad739990db97322b35ee4755fd8");
}

TEST(PrefixHashTest, ShortHashIsTheFirstEightBytesLittleEndian) {
  EXPECT_EQ(ShortHash(RootHash(TinyRoot())), 0xd4275b14262023b3u);
}

TEST(PrefixHashTest, ChainHashesFullBlocksAsTheyFill) {
  HashChain chain(RootHash(TinyRoot()), 4);
  std::vector<TokenId> tokens = Iota(3);
  chain.Extend(tokens);
  EXPECT_TRUE(chain.hashes().empty());
  tokens = Iota(9);
  chain.Extend(tokens);
  ASSERT_EQ(chain.hashes().size(), 2);
  EXPECT_EQ(ToHex(chain.hashes()[1]).substr(0, 8), "a078f9a8");
}

TEST(PrefixHashTest, AnythingDifferentChangesTheChain) {
  const std::vector<TokenId> tokens = Iota(16);
  std::set<std::string> last;
  const auto add = [&last](const HashRoot& root,
                           const std::vector<TokenId>& list, uint32_t bt) {
    HashChain chain(RootHash(root), bt);
    chain.Extend(list);
    EXPECT_TRUE(last.insert(ToHex(chain.hashes().back())).second);
  };
  add(TinyRoot(), tokens, 4);
  add(TinyRoot(), tokens, 8);
  add(TinyRoot("a"), tokens, 4);
  add(TinyRoot("", "a"), tokens, 4);
  add(TinyRoot("b", "a"), tokens, 4);
  add(TinyRoot("", "ab"), tokens, 4);
  HashRoot other = TinyRoot();
  other.fingerprint[31] ^= 1;
  add(other, tokens, 4);
  for (int i = 0; i < 16; ++i) {
    std::vector<TokenId> changed = tokens;
    changed[i] += 1000;
    add(TinyRoot(), changed, 4);
  }
  const BlockHash root = RootHash(TinyRoot());
  const auto block = absl::MakeConstSpan(tokens).first(4);
  const BlockExtra a{.offset = 1, .content = Sha256Of("x")};
  const BlockExtra b{.offset = 2, .content = Sha256Of("x")};
  const std::vector<BlockExtra> both = {a, b};
  std::set<std::string> extras = {ToHex(ChainedHash(root, block, {})),
                                  ToHex(ChainedHash(root, block, {&a, 1})),
                                  ToHex(ChainedHash(root, block, {&b, 1})),
                                  ToHex(ChainedHash(root, block, both))};
  EXPECT_EQ(extras.size(), 4);
}

// Plays a sequence's part.
class Table {
 public:
  Table(BlockAllocator& blocks, PrefixCache& cache, int base, int count)
      : blocks_(blocks), cache_(cache), chain_(RootHash(TinyRoot()), 4) {
    std::vector<TokenId> tokens = Iota(count);
    for (int i = base; i < count; ++i) tokens[i] += 100 * (base + 1);
    chain_.Extend(tokens);
    const size_t most = (tokens.size() - 1) / 4;
    ids = cache_.Match(absl::MakeConstSpan(chain_.hashes()).first(most));
    matched = ids.size();
    for (BlockId b : ids) blocks_.Ref(b);
    allocated = blocks_.Allocate(
        (count + 3) / 4 - static_cast<uint32_t>(ids.size()), ids);
  }
  void Commit(size_t index) {
    const BlockId own = ids[index];
    ids[index] = cache_.Commit(own, chain_.hashes()[index]);
    if (ids[index] != own) blocks_.Unref(own);
  }
  void Release() {
    for (; !ids.empty(); ids.pop_back()) blocks_.Unref(ids.back());
  }

  Ids ids;
  size_t matched = 0;
  absl::Status allocated;

 private:
  BlockAllocator& blocks_;
  PrefixCache& cache_;
  HashChain chain_;
};

TEST(PrefixCacheTest, EvictionTraceOfTheSpecification) {
  BlockAllocator blocks(7);
  PrefixCache cache(&blocks);
  Table a(blocks, cache, 9, 9);
  EXPECT_EQ(a.ids, (Ids{1, 2, 3}));
  a.Commit(0);
  a.Commit(1);
  a.Release();
  EXPECT_EQ(blocks.FreeList(), (Ids{3, 4, 5, 6}));
  EXPECT_EQ(blocks.CachedOrder(), (Ids{2, 1}));
  Table b(blocks, cache, 8, 13);
  EXPECT_EQ(b.matched, 2);
  EXPECT_EQ(b.ids, (Ids{1, 2, 3, 4}));
  Table c(blocks, cache, 0, 8);
  EXPECT_EQ(c.ids, (Ids{5, 6}));
  Table d(blocks, cache, 1, 4);
  EXPECT_EQ(d.allocated.code(), absl::StatusCode::kResourceExhausted);
  c.Commit(0);
  b.Commit(2);
  c.Release();
  EXPECT_EQ(blocks.FreeList(), (Ids{6}));
  EXPECT_EQ(blocks.CachedOrder(), (Ids{5}));
  b.Release();
  EXPECT_EQ(blocks.FreeList(), (Ids{4, 6}));
  EXPECT_EQ(blocks.CachedOrder(), (Ids{5, 3, 2, 1}));
  Table e(blocks, cache, 2, 16);
  EXPECT_EQ(e.ids, (Ids{4, 6, 5, 3}));
  EXPECT_EQ(blocks.CachedOrder(), (Ids{2, 1}));
  EXPECT_TRUE(cache.CheckInvariants().ok());
  EXPECT_TRUE(blocks.CheckInvariants().ok());
}

TEST(PrefixCacheTest, EqualBlocksAreMergedAtCommit) {
  BlockAllocator blocks(5);
  PrefixCache cache(&blocks);
  Table f(blocks, cache, 4, 4);
  Table g(blocks, cache, 4, 4);
  EXPECT_EQ(f.ids, (Ids{1}));
  EXPECT_EQ(g.ids, (Ids{2}));
  f.Commit(0);
  g.Commit(0);
  EXPECT_EQ(g.ids, (Ids{1}));
  EXPECT_EQ(blocks.refs(1), 2);
  EXPECT_EQ(blocks.FreeList(), (Ids{2, 3, 4}));
  EXPECT_TRUE(cache.CheckInvariants().ok());
}

TEST(PrefixCacheTest, MatchStopsAtTheFirstMissAndLeavesOneToken) {
  BlockAllocator blocks(20);
  PrefixCache cache(&blocks);
  Table a(blocks, cache, 16, 16);
  a.Commit(0);
  a.Commit(1);
  a.Commit(3);  // 2 is missing
  a.Release();
  for (const auto& [length, matched] : std::vector<std::pair<int, size_t>>{
           {1, 0}, {4, 0}, {5, 1}, {8, 1}, {9, 2}, {13, 2}, {17, 2}}) {
    Table t(blocks, cache, 99, length);
    EXPECT_EQ(t.matched, matched) << length;
    t.Release();
  }
}

TEST(PrefixCacheTest, ResetKeepsActiveBlocksWithTheirOwners) {
  BlockAllocator blocks(6);
  PrefixCache cache(&blocks);
  Table a(blocks, cache, 8, 8);
  a.Commit(0);
  a.Commit(1);
  Table b(blocks, cache, 8, 5);  // shares block 1
  a.Release();
  EXPECT_EQ(blocks.num_cached(), 1);
  cache.Reset();
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(blocks.num_cached(), 0);
  EXPECT_EQ(blocks.refs(1), 1);
  EXPECT_TRUE(cache.CheckInvariants().ok());
  EXPECT_TRUE(blocks.CheckInvariants().ok());
  b.Release();
  EXPECT_EQ(blocks.num_free(), 5);
}

TEST(PrefixCacheTest, ChangesAreNet) {
  BlockAllocator blocks(3);
  PrefixCache cache(&blocks);
  Table a(blocks, cache, 0, 4);
  a.Commit(0);
  auto changes = cache.TakeChanges();
  ASSERT_EQ(changes.stored.size(), 1);
  const uint64_t hash_a = changes.stored[0];
  EXPECT_TRUE(cache.TakeChanges().empty());
  a.Release();

  Ids all;  // evicts it
  ASSERT_TRUE(blocks.Allocate(2, all).ok());
  changes = cache.TakeChanges();
  EXPECT_EQ(changes.removed, std::vector<uint64_t>{hash_a});
  for (BlockId b : all) blocks.Unref(b);

  Table again(blocks, cache, 0, 4);  // stored and evicted in one report
  again.Commit(0);
  again.Release();
  ASSERT_TRUE(blocks.Allocate(2, all).ok());
  EXPECT_TRUE(cache.TakeChanges().empty());

  cache.Reset();
  changes = cache.TakeChanges();
  EXPECT_TRUE(changes.cleared);
  EXPECT_TRUE(changes.stored.empty() && changes.removed.empty());
}

}  // namespace
}  // namespace sluice::worker
