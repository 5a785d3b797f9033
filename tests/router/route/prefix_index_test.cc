#include "router/route/prefix_index.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace sluice::router {
namespace {

using Hashes = std::vector<uint64_t>;

TEST(PrefixIndexTest, CountsLeadingBlocks) {
  PrefixIndex index;
  const Hashes stored = {1, 2, 4};
  index.Apply("a", {.stored = stored});
  EXPECT_EQ(index.MatchBlocks("a", Hashes{1, 2, 3, 4}), 2u);
  EXPECT_EQ(index.MatchBlocks("a", Hashes{3, 1}), 0u);
  EXPECT_EQ(index.MatchBlocks("a", Hashes{}), 0u);
  EXPECT_EQ(index.MatchBlocks("b", Hashes{1}), 0u);
}

TEST(PrefixIndexTest, ClearedComesFirst) {
  PrefixIndex index;
  const Hashes old = {1, 2};
  const Hashes fresh = {2, 3};
  const Hashes gone = {3};
  index.Apply("a", {.stored = old});
  index.Apply("a", {.cleared = true, .stored = fresh, .removed = gone});
  EXPECT_EQ(index.MatchBlocks("a", Hashes{1}), 0u);
  EXPECT_EQ(index.MatchBlocks("a", Hashes{2}), 1u);
  EXPECT_EQ(index.num_blocks(), 1u);
  index.Remove("a");
  index.Remove("a");
  EXPECT_EQ(index.num_blocks(), 0u);
}

TEST(PrefixIndexTest, IsBounded) {
  PrefixIndex index(3);
  const Hashes stored = {1, 2, 3, 4, 5};
  index.Apply("a", {.stored = stored});
  EXPECT_EQ(index.num_blocks(), 3u);
  const Hashes removed = {1};
  index.Apply("a", {.removed = removed});
  index.Apply("b", {.stored = stored});
  EXPECT_EQ(index.num_blocks(), 3u);
}

TEST(PrefixIndexTest, AgreesWithSetsUnderRandomChanges) {
  std::mt19937_64 random(7);
  PrefixIndex index;
  std::map<std::string, std::set<uint64_t>> model;
  for (int step = 0; step < 2000; ++step) {
    const std::string who(1, static_cast<char>('a' + random() % 3));
    Hashes stored(random() % 4);
    Hashes removed(random() % 4);
    for (auto& h : stored) h = random() % 50;
    for (auto& h : removed) h = random() % 50;
    const bool cleared = random() % 50 == 0;
    index.Apply(who,
                {.cleared = cleared, .stored = stored, .removed = removed});
    if (cleared) model[who].clear();
    model[who].insert(stored.begin(), stored.end());
    for (uint64_t h : removed) model[who].erase(h);
    size_t total = 0;
    for (const auto& [name, set] : model) total += set.size();
    ASSERT_EQ(index.num_blocks(), total);
    const Hashes probe = {random() % 50, random() % 50};
    size_t want = 0;
    while (want < 2 && model[who].count(probe[want])) ++want;
    ASSERT_EQ(index.MatchBlocks(who, probe), want);
  }
}

}  // namespace
}  // namespace sluice::router
