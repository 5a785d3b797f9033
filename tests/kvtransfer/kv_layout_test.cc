#include "kvtransfer/kv_layout.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice::kvtransfer {
namespace {

GroupLayout Tiles() {
  return {.heads = 3,
          .head_dim = 64,
          .inner_order = InnerOrder::kCpuTiles,
          .layers = 30,
          .block_tokens = 64};
}

TEST(KvLayout, SizesAndOffsets) {
  const GroupLayout l = Tiles();
  ASSERT_TRUE(l.Validate().ok());
  EXPECT_EQ(l.head_block_bytes(), 64 * 64 * 2);
  EXPECT_EQ(l.block_bytes(), 30 * 2 * 3 * 8192);
  EXPECT_EQ(l.block_stride_bytes(), l.block_bytes());
  EXPECT_EQ(l.HeadBlockOffset(2, 1, 1, 2),
            2 * l.block_stride_bytes() + ((1 * 2 + 1) * 3 + 2) * 8192);
  GroupLayout odd{
      .comps = 1, .heads = 1, .head_dim = 5, .layers = 1, .block_tokens = 8};
  EXPECT_EQ(odd.block_bytes(), 80);
  EXPECT_EQ(odd.block_stride_bytes(), 256);
}

TEST(KvLayout, ElementOffsetsOfTiles) {
  const GroupLayout l = Tiles();
  // K [bt/16, hd/2, 16, 2], V [bt/2, hd, 2].
  EXPECT_EQ(l.ElementOffset(0, 0, 0), 0);
  EXPECT_EQ(l.ElementOffset(0, 0, 1), 2);
  EXPECT_EQ(l.ElementOffset(0, 1, 0), 4);
  EXPECT_EQ(l.ElementOffset(0, 0, 2), 64);
  EXPECT_EQ(l.ElementOffset(0, 17, 3), (1 * 32 * 32 + 1 * 32 + 1 * 2 + 1) * 2);
  EXPECT_EQ(l.ElementOffset(1, 0, 1), 4);
  EXPECT_EQ(l.ElementOffset(1, 1, 0), 2);
  EXPECT_EQ(l.ElementOffset(1, 3, 5), ((1 * 64 + 5) * 2 + 1) * 2);
}

TEST(KvLayout, EveryElementHasItsOwnPlace) {
  for (const InnerOrder order :
       {InnerOrder::kCanonical, InnerOrder::kCpuTiles}) {
    GroupLayout l = Tiles();
    l.inner_order = order;
    for (int comp = 0; comp < 2; ++comp) {
      std::set<int64_t> seen;
      for (int t = 0; t < l.block_tokens; ++t) {
        for (int d = 0; d < l.head_dim; ++d) {
          const int64_t at = l.ElementOffset(comp, t, d);
          EXPECT_TRUE(at >= 0 && at < l.head_block_bytes());
          EXPECT_TRUE(seen.insert(at).second);
          // A token group is contiguous and starts where RunOffset() says.
          const int64_t group =
              l.RunOffset(t / l.token_group() * l.token_group());
          EXPECT_GE(at, group);
          EXPECT_LT(at, group + l.token_group() * l.token_bytes());
        }
      }
    }
  }
}

TEST(KvLayout, RefusesWhatCannotBe) {
  struct Case {
    GroupLayout layout;
    const char* text;
  };
  GroupLayout bad_block = Tiles();
  bad_block.block_tokens = 48;
  GroupLayout small = Tiles();
  small.block_tokens = 8;
  GroupLayout wide = Tiles();
  wide.dtype = KvDtype::kF32;
  GroupLayout odd = Tiles();
  odd.head_dim = 63;
  GroupLayout none = Tiles();
  none.heads = 0;
  const Case cases[] = {
      {bad_block, "block_tokens must be a power of two in [8, 256], got 48"},
      {small, "block_tokens 8"},
      {wide, "got f32"},
      {odd, "head_dim 63"},
      {none, "heads must be in [1, 65536], got 0"},
  };
  for (const Case& c : cases) {
    const absl::Status status = c.layout.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(c.text), std::string::npos)
        << status;
  }
  EXPECT_FALSE(CheckBlockTokens(0).ok());
  EXPECT_FALSE(CheckBlockTokens(512).ok());
  EXPECT_TRUE(CheckBlockTokens(256).ok());
}

}  // namespace
}  // namespace sluice::kvtransfer
