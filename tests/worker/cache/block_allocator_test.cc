// States, counts and order of blocks (KV cache specification, sections 2, 4
// and 6).
#include "worker/cache/block_allocator.h"

#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::worker {
namespace {

using State = BlockAllocator::State;
using Ids = std::vector<BlockId>;

TEST(BlockAllocatorTest, ReleasesTailsFirstAndReusesThemFirst) {
  BlockAllocator blocks(5);
  Ids table;
  ASSERT_TRUE(blocks.Allocate(3, table).ok());
  EXPECT_EQ(table, (Ids{1, 2, 3}));
  for (BlockId b : {3, 2, 1}) blocks.Unref(b);
  EXPECT_EQ(blocks.FreeList(), (Ids{1, 2, 3, 4}));
}

TEST(BlockAllocatorTest, ShortAllocationChangesNothing) {
  BlockAllocator blocks(5);
  Ids table;
  ASSERT_TRUE(blocks.Allocate(3, table).ok());
  const absl::Status status = blocks.Allocate(2, table);
  EXPECT_EQ(status, absl::ResourceExhaustedError("want 2 blocks, 1 available"));
  EXPECT_EQ(table.size(), 3);
  EXPECT_EQ(blocks.FreeList(), (Ids{4}));
  ASSERT_TRUE(blocks.Allocate(0, table).ok());
}

TEST(BlockAllocatorTest, HashedBlocksAreCachedAndEvictedOldestFirst) {
  BlockAllocator blocks(4);
  Ids evicted;
  blocks.set_on_evicted([&evicted](BlockId b) { evicted.push_back(b); });
  Ids table;
  ASSERT_TRUE(blocks.Allocate(3, table).ok());
  blocks.MarkHashed(2);
  blocks.MarkHashed(1);
  blocks.Unref(2);
  blocks.Unref(1);
  EXPECT_EQ(blocks.CachedOrder(), (Ids{2, 1}));
  blocks.Ref(2);  // found again
  EXPECT_EQ(blocks.state(2), State::kActive);
  EXPECT_EQ(blocks.CachedOrder(), (Ids{1}));
  blocks.Unref(2);
  EXPECT_EQ(blocks.CachedOrder(), (Ids{1, 2}));
  Ids more;
  ASSERT_TRUE(blocks.Allocate(1, more).ok());
  EXPECT_EQ(more, (Ids{1}));
  EXPECT_EQ(evicted, (Ids{1}));
  EXPECT_FALSE(blocks.hashed(1));
}

TEST(BlockAllocatorTest, QuarantinedBlocksAreNobodys) {
  BlockAllocator blocks(3);
  Ids table;
  ASSERT_TRUE(blocks.Allocate(2, table).ok());
  blocks.Quarantine(1);
  EXPECT_EQ(blocks.num_quarantined(), 1);
  EXPECT_EQ(blocks.available(), 0);
  EXPECT_TRUE(blocks.CheckInvariants().ok());
  blocks.ReleaseQuarantined(1);
  EXPECT_EQ(blocks.FreeList(), (Ids{1}));
  EXPECT_TRUE(blocks.CheckInvariants().ok());
}

TEST(BlockAllocatorDeathTest, OurBugsAbort) {
  BlockAllocator blocks(3);
  Ids table;
  ASSERT_TRUE(blocks.Allocate(1, table).ok());
  EXPECT_DEATH(blocks.Ref(0), "CHECK failed");
  EXPECT_DEATH(blocks.Ref(2), "CHECK failed");  // free
  EXPECT_DEATH(blocks.Unref(2), "CHECK failed");
  EXPECT_DEATH(blocks.Unref(3), "CHECK failed");  // out of range
  EXPECT_DEATH(blocks.MarkHashed(2), "CHECK failed");
  blocks.MarkHashed(1);
  EXPECT_DEATH(blocks.MarkHashed(1), "CHECK failed");
  EXPECT_DEATH(blocks.Quarantine(1), "CHECK failed");
  EXPECT_DEATH(blocks.ReleaseQuarantined(1), "CHECK failed");
  EXPECT_DEATH(BlockAllocator(1), "CHECK failed");
}

// The simplest model that could be right: counts by block and two lists.
struct Model {
  std::deque<BlockId> free;
  std::deque<BlockId> cached;
  std::map<BlockId, int> refs;
  std::map<BlockId, bool> hashed;
  std::deque<BlockId> quarantined;

  Ids Allocate(size_t count) {
    Ids out;
    if (count > free.size() + cached.size()) return out;
    for (size_t i = 0; i < count; ++i) {
      std::deque<BlockId>& from = free.empty() ? cached : free;
      out.push_back(from.front());
      from.pop_front();
      refs[out.back()] = 1;
      hashed[out.back()] = false;
    }
    return out;
  }
  void Unref(BlockId block) {
    if (--refs[block] > 0) return;
    refs.erase(block);
    if (hashed[block]) {
      cached.push_back(block);
    } else {
      free.push_front(block);
    }
  }
};

TEST(BlockAllocatorTest, MillionRandomOperationsAgainstTheModel) {
  constexpr uint32_t kUsable = 24;
  std::mt19937 rng(11);
  BlockAllocator blocks(kUsable + 1);
  Model model;
  for (BlockId b = 1; b <= kUsable; ++b) model.free.push_back(b);
  const auto pick = [&rng](const auto& from) {
    auto it = from.begin();
    std::advance(it, rng() % from.size());
    return it;
  };
  for (int op = 0; op < 1000000; ++op) {
    const uint32_t what = rng() % 8;
    if (what < 2) {
      const uint32_t count = rng() % 5;
      Ids got;
      const Ids want = model.Allocate(count);
      EXPECT_EQ(blocks.Allocate(count, got).ok(), want.size() == count);
      ASSERT_EQ(got, want);
    } else if (what == 2 && !model.refs.empty()) {
      const BlockId block = pick(model.refs)->first;
      ++model.refs[block];
      blocks.Ref(block);
    } else if (what == 3 && !model.cached.empty()) {
      const auto it = pick(model.cached);
      const BlockId block = *it;
      model.cached.erase(it);
      if (rng() % 3 == 0) {
        model.hashed[block] = false;
        model.free.push_back(block);
        blocks.ClearHashed(block);
      } else {
        model.refs[block] = 1;
        blocks.Ref(block);
      }
    } else if (what == 4 && !model.refs.empty()) {
      const BlockId block = pick(model.refs)->first;
      if (model.hashed[block]) continue;
      if (model.refs[block] == 1 && rng() % 4 == 0) {
        model.refs.erase(block);
        model.quarantined.push_back(block);
        blocks.Quarantine(block);
      } else {
        model.hashed[block] = true;
        blocks.MarkHashed(block);
      }
    } else if (what == 5 && !model.quarantined.empty()) {
      const BlockId block = model.quarantined.front();
      model.quarantined.pop_front();
      model.free.push_front(block);
      blocks.ReleaseQuarantined(block);
    } else if (!model.refs.empty()) {
      const BlockId block = pick(model.refs)->first;
      model.Unref(block);
      blocks.Unref(block);
    }
    const absl::Status status = blocks.CheckInvariants();
    ASSERT_TRUE(status.ok()) << op << " " << status;
    ASSERT_EQ(blocks.num_free(), model.free.size());
    ASSERT_EQ(blocks.num_cached(), model.cached.size());
    ASSERT_EQ(blocks.num_active(), model.refs.size());
    ASSERT_EQ(blocks.num_quarantined(), model.quarantined.size());
    ASSERT_EQ(blocks.usable(), blocks.available() + blocks.num_active() +
                                   blocks.num_quarantined());
  }
  EXPECT_EQ(blocks.FreeList(), Ids(model.free.begin(), model.free.end()));
  EXPECT_EQ(blocks.CachedOrder(),
            Ids(model.cached.begin(), model.cached.end()));
}

}  // namespace
}  // namespace sluice::worker
