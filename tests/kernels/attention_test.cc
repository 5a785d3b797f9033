#include "kernels/attention.h"

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/exact_attention.h"
#include "tests/kernels/op_levels.h"
#include "tests/kernels/paged_cache.h"

namespace sluice::kernels {
namespace {

constexpr KvDtype kF32 = KvDtype::kF32;
constexpr KvDtype kBF16 = KvDtype::kBF16;
constexpr KvOrder kCanonical = KvOrder::kCanonical;
constexpr KvOrder kTiles = KvOrder::kCpuTiles;

// Fields: heads, kv_heads, head_dim, block_tokens, dtype, order.
struct Case {
  const char* name;
  CacheShape shape;
};

const Case kCases[] = {
    {"TilesGroup1", {2, 2, 64, 64, kBF16, kTiles}},
    {"TilesGroup3", {9, 3, 64, 16, kBF16, kTiles}},
    {"TilesGroup4Dim128", {8, 2, 128, 32, kBF16, kTiles}},
    {"TilesGroup8Dim80", {8, 1, 80, 256, kBF16, kTiles}},
    {"TilesGroup40Dim24", {40, 1, 24, 64, kBF16, kTiles}},
    {"TilesDim96", {4, 2, 96, 128, kBF16, kTiles}},
    {"TilesDim8", {2, 1, 8, 64, kBF16, kTiles}},
    {"TilesDim16", {4, 2, 16, 16, kBF16, kTiles}},
    {"TilesDim256", {2, 1, 256, 64, kBF16, kTiles}},
    {"TilesDim512", {1, 1, 512, 64, kBF16, kTiles}},
    {"Bf16Canonical", {4, 2, 64, 8, kBF16, kCanonical}},
    {"F32", {4, 2, 64, 64, kF32, kCanonical}},
    {"F32Dim72", {5, 1, 72, 8, kF32, kCanonical}},
    {"F32Dim192", {2, 2, 192, 16, kF32, kCanonical}},
};

std::string NameOf(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

// Sequences of a ragged step: (kv_before, q_len).
const std::vector<StepPart> kRagged = {
    {0, 0, 1},       {1, 63, 65},     {2, 64, 64},    {3, 65, 69},
    {4, 1000, 1001}, {5, 0, 65},      {6, 1, 10},     {7, 64, 127},
    {8, 0, 8},       {9, 1030, 1035}, {10, 511, 515}, {11, 63, 64},
};

class AttentionTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const CacheShape& shape = GetParam().shape;
    int64_t longest = 0;
    for (const StepPart& part : kRagged) longest = std::max(longest, part.end);
    cache_.emplace(shape, kRagged.size(), longest, 5);
    for (const StepPart& part : kRagged) {
      rows_.push_back(MakeRows(shape, part.end, 100 + part.sequence));
      cache_->Write({&pool_}, *Levels()[0], part.sequence, rows_.back(), 0,
                    part.end);
    }
  }

  ThreadPool pool_{2};
  std::optional<PagedCache> cache_;
  std::vector<SequenceRows> rows_;
};

TEST_P(AttentionTest, MatchesFloat64AndEveryLevelHasTheSameBits) {
  AttentionStep step(*cache_, rows_, kRagged);
  const std::vector<float> portable = step.Run({&pool_}, 2, *Levels()[0]);
  std::vector<double> want(portable.size());
  AttentionF64(step.Args(), want.data());
  const bool f32 = GetParam().shape.dtype == kF32;
  const double rtol = f32 ? 1e-5 : 1e-2;
  const double atol = f32 ? 1e-6 : 5e-3;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(portable[i], want[i], atol + rtol * std::abs(want[i])) << i;
  }
  for (const OpTable* ops : Levels()) {
    EXPECT_TRUE(SameBytes(step.Run({&pool_}, 2, *ops), portable)) << ops->name;
  }
}

// Tiles of 64, segments of 512, chains and roundings are the specification's.
TEST_P(AttentionTest, BitsAreThoseOfTheDefinition) {
  // One sequence of three segments and one that ends inside a tile.
  AttentionStep step(*cache_, rows_, {kRagged[9], kRagged[10]});
  const std::vector<float> got = step.Run({&pool_}, 2, *Levels()[0]);
  std::vector<float> want(got.size());
  ExactAttention(step.Args(), want.data());
  EXPECT_TRUE(SameBytes(got, want));
}

TEST_P(AttentionTest, ARowAloneAndAnyThreadsGiveTheSameBits) {
  const OpTable& ops = *Levels().back();
  AttentionStep step(*cache_, rows_, kRagged);
  const std::vector<float> together = step.Run({&pool_}, 2, ops);
  for (const int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    EXPECT_TRUE(SameBytes(step.Run({&pool}, threads, ops), together))
        << threads;
    // Every sequence alone: few items, so long ones are split by segment.
    int64_t row = 0;
    const int64_t cols = GetParam().shape.heads * GetParam().shape.head_dim;
    for (const StepPart& part : kRagged) {
      AttentionStep alone(*cache_, rows_, {part});
      const std::vector<float>& got = alone.Run({&pool}, threads, ops);
      const std::vector<float> want(
          together.begin() + row * cols,
          together.begin() + (row + part.end - part.begin) * cols);
      ASSERT_TRUE(SameBytes(got, want)) << part.sequence << " " << threads;
      row += part.end - part.begin;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest, testing::ValuesIn(kCases),
                         NameOf);

// Runs `length` positions of one sequence in chunks of the sizes given (the
// last one repeats), writing each chunk before attending; returns all rows.
std::vector<float> RunChunks(const CacheShape& shape, const OpTable& ops,
                             const SequenceRows& rows, int64_t length,
                             const std::vector<int64_t>& chunks) {
  ThreadPool pool(2);
  PagedCache cache(shape, 1, length, 9);
  std::vector<float> all;
  size_t next = 0;
  for (int64_t at = 0; at < length;) {
    const int64_t end = std::min(length, at + chunks[next]);
    if (next + 1 < chunks.size()) ++next;
    cache.Write({&pool}, ops, 0, rows, at, end);
    AttentionStep step(cache, {rows}, {{0, at, end}});
    const std::vector<float>& out = step.Run({&pool}, 2, ops);
    all.insert(all.end(), out.begin(), out.end());
    at = end;
  }
  return all;
}

TEST(AttentionChunks, PrefillVerificationAndDecodeGiveTheSameBits) {
  const CacheShape shapes[] = {{6, 2, 64, 64, kBF16, kTiles},
                               {4, 4, 24, 16, kBF16, kTiles},
                               {3, 1, 40, 8, kF32, kCanonical}};
  for (const CacheShape& shape : shapes) {
    const int64_t length = 600;
    const SequenceRows rows = MakeRows(shape, length, 3);
    const OpTable& ops = *Levels().back();
    const std::vector<float> whole =
        RunChunks(shape, ops, rows, length, {length});
    const std::vector<std::vector<int64_t>> chunkings = {
        {1}, {64}, {200}, {257, 3}, {500, 2, 4, 8, 1}};
    for (const std::vector<int64_t>& chunks : chunkings) {
      EXPECT_TRUE(SameBytes(RunChunks(shape, ops, rows, length, chunks), whole))
          << shape.head_dim << " chunk " << chunks[0];
    }
  }
}

TEST(AttentionBlocks, BlockTokensAndOrderDoNotShowInTheBits) {
  CacheShape shape = {6, 2, 64, 64, kBF16, kTiles};
  const int64_t length = 700;
  const SequenceRows rows = MakeRows(shape, length, 3);
  const OpTable& ops = *Levels().back();
  const std::vector<float> want = RunChunks(shape, ops, rows, length, {length});
  for (const KvOrder order : {kTiles, kCanonical}) {
    for (int64_t block_tokens = 8; block_tokens <= 256; block_tokens *= 2) {
      if (order == kTiles && block_tokens < 16) continue;
      shape.order = order;
      shape.block_tokens = block_tokens;
      EXPECT_TRUE(
          SameBytes(RunChunks(shape, ops, rows, length, {length}), want))
          << block_tokens;
    }
  }
}

// Specification example (attention section 5.2): scores 1, 2, 0.5, -1, 3 and
// values 1 .. 5 as one dimension of a longer head.
TEST(AttentionExample, FiveKeys) {
  const CacheShape shape = {1, 1, 8, 8, kF32, kCanonical};
  SequenceRows rows = MakeRows(shape, 5, 1);
  const float scores[] = {1, 2, 0.5f, -1, 3};
  std::fill(rows.q.begin(), rows.q.end(), 0.0f);
  std::fill(rows.v.begin(), rows.v.end(), 0.0f);
  for (int t = 0; t < 5; ++t) {
    rows.k[t * 8] = scores[t];
    rows.v[t * 8 + 3] = static_cast<float>(t + 1);
  }
  rows.q[4 * 8] = std::sqrt(8.0f);
  for (const OpTable* ops : Levels()) {
    const std::vector<float> out = RunChunks(shape, *ops, rows, 5, {5});
    EXPECT_NEAR(out[4 * 8 + 3], 3.860409, 4e-6) << ops->name;
    EXPECT_EQ(out[4 * 8], 0.0f);
    EXPECT_FALSE(std::signbit(out[4 * 8]));
  }
}

TEST(AttentionEdges, NoRowsAndEmptySequencesAreLegal) {
  const CacheShape shape = {2, 1, 16, 16, kBF16, kTiles};
  ThreadPool pool(2);
  const PagedCache cache(shape, 2, 64, 1);
  const std::vector<SequenceRows> rows = {MakeRows(shape, 4, 1),
                                          MakeRows(shape, 4, 2)};
  for (const OpTable* ops : Levels()) {
    AttentionStep none(cache, rows, {});
    EXPECT_TRUE(none.Run({&pool}, 2, *ops).empty());
    AttentionStep empty(cache, rows, {{0, 0, 0}, {1, 3, 3}});
    EXPECT_TRUE(empty.Run({&pool}, 2, *ops).empty());
  }
}

}  // namespace
}  // namespace sluice::kernels
