#include "kvtransfer/region_table.h"

#include <gtest/gtest.h>

namespace sluice::kvtransfer {
namespace {

TEST(RegionTable, FindsAndChecksRanges) {
  std::byte memory[64];
  RegionTable table;
  ASSERT_TRUE(
      table.Register({.key = "a", .base = memory, .size_bytes = 32}).ok());
  table.CheckInvariants();
  EXPECT_TRUE(table.Find("a").ok());
  EXPECT_EQ(table.Find("b").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table.At("a", 30, 2), memory + 30);
  EXPECT_TRUE(table.CheckRange("a", 32, 0).ok());
  EXPECT_FALSE(table.CheckRange("a", 32, 1).ok());
  EXPECT_FALSE(table.CheckRange("a", UINT64_MAX, 2).ok());
  EXPECT_FALSE(table.CheckRange("a", 2, UINT64_MAX).ok());
  EXPECT_FALSE(
      table.Register({.key = "b", .base = memory + 31, .size_bytes = 8}).ok());
  EXPECT_TRUE(
      table.Register({.key = "b", .base = memory + 32, .size_bytes = 8}).ok());
  EXPECT_FALSE(
      table.Register({.key = "", .base = memory, .size_bytes = 1}).ok());
  table.CheckInvariants();
  table.Deregister("b");
  EXPECT_EQ(table.size(), 1u);
}

TEST(RegionTableDeathTest, OutsideIsABug) {
  std::byte memory[8];
  RegionTable table;
  ASSERT_TRUE(
      table.Register({.key = "a", .base = memory, .size_bytes = 8}).ok());
  EXPECT_DEATH(table.At("a", 8, 1), "CHECK");
  EXPECT_DEATH(table.At("x", 0, 1), "not registered");
  EXPECT_DEATH(
      {
        table.StartOperation("a");
        table.Deregister("a");
      },
      "open_operations == 0");
  EXPECT_DEATH(table.EndOperation("a"), "open_operations > 0");
}

}  // namespace
}  // namespace sluice::kvtransfer
