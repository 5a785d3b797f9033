#include "router/text/merge_table.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::router {
namespace {

using Symbols = std::vector<int32_t>;

// The rule as it is written: lowest rank, then leftmost, until none is left.
Symbols MergeSlowly(const MergeTable& table, Symbols symbols) {
  for (;;) {
    size_t best = symbols.size();
    uint32_t best_rank = MergeTable::kNoRank;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const uint32_t rank = table.Find(symbols[i], symbols[i + 1]).rank;
      if (rank < best_rank) {
        best_rank = rank;
        best = i;
      }
    }
    if (best == symbols.size()) return symbols;
    symbols[best] = table.Find(symbols[best], symbols[best + 1]).merged;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(MergeTableTest, AgreesWithTheRuleAtEveryLength) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    MergeTable table(80);
    // Few ranks, so that ties are common, and few symbols, so that merges of
    // merged symbols are.
    for (int i = 0; i < 60; ++i) {
      table.Insert(static_cast<int32_t>(random() % 12),
                   static_cast<int32_t>(random() % 12),
                   {static_cast<uint32_t>(random() % 20),
                    static_cast<int32_t>(random() % 12)});
    }
    for (size_t size : {0, 1, 2, 3, 10, 63, 64, 65, 66, 300}) {
      Symbols symbols(size);
      for (int32_t& symbol : symbols) {
        symbol = static_cast<int32_t>(random() % 12);
      }
      const Symbols expected = MergeSlowly(table, symbols);
      table.Apply(symbols);
      ASSERT_EQ(symbols, expected) << "round " << round << " size " << size;
    }
  }
}

TEST(MergeTableTest, RefusesARepeatedPair) {
  MergeTable table(4);
  EXPECT_TRUE(table.Insert(1, 2, {5, 3}));
  EXPECT_FALSE(table.Insert(1, 2, {6, 4}));
  EXPECT_EQ(table.Find(1, 2).rank, 5u);
  EXPECT_EQ(table.Find(2, 1).rank, MergeTable::kNoRank);
}

}  // namespace
}  // namespace sluice::router
