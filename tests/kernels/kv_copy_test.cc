#include "kernels/kv_copy.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/aligned_bytes.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/quant/bf16.h"
#include "kernels/reference/attention.h"
#include "tests/kernels/op_levels.h"
#include "tests/kernels/paged_cache.h"

namespace sluice::kernels {
namespace {

const CacheShape kShapes[] = {
    {9, 3, 64, 16, KvDtype::kBF16, KvOrder::kCpuTiles},
    {2, 2, 40, 256, KvDtype::kBF16, KvOrder::kCpuTiles},
    {1, 1, 512, 64, KvDtype::kBF16, KvOrder::kCpuTiles},
    {4, 2, 24, 8, KvDtype::kBF16, KvOrder::kCanonical},
    {4, 2, 72, 8, KvDtype::kF32, KvOrder::kCanonical},
};

// Rows at scattered slots, some skipped, values with ties and subnormals.
struct Write {
  std::vector<float> k;
  std::vector<float> v;
  std::vector<int64_t> slots;
};

Write MakeWrite(const CacheShape& shape, int64_t rows, int64_t num_slots) {
  std::mt19937 rng(8);
  std::normal_distribution<float> normal;
  Write write;
  std::vector<int64_t> slots;
  for (int64_t s = 0; s < num_slots; ++s) slots.push_back(s);
  std::shuffle(slots.begin(), slots.end(), rng);
  const int64_t cols = shape.kv_heads * shape.head_dim;
  for (int64_t t = 0; t < rows; ++t) {
    write.slots.push_back(t % 5 == 3 ? -1 : slots[t]);
    for (int64_t d = 0; d < cols; ++d) {
      const uint32_t tie = 0x3f800000 | (rng() % 64) << 15;
      float exact;
      std::memcpy(&exact, &tie, 4);
      write.k.push_back(d % 7 == 0 ? exact : normal(rng));
      write.v.push_back(d % 9 == 0 ? 1e-40f : normal(rng));
    }
  }
  return write;
}

TEST(WriteKv, TouchesOnlyItsSlotsAndRoundsToTheCache) {
  ThreadPool pool(2);
  for (const CacheShape& shape : kShapes) {
    const int64_t cols = shape.kv_heads * shape.head_dim;
    const int64_t rows = 300;
    std::vector<uint8_t> portable;
    for (const OpTable* ops : Levels()) {
      PagedCache cache(shape, 2, 600, 1);
      const Write write =
          MakeWrite(shape, rows, cache.view().num_blocks * shape.block_tokens);
      const std::vector<uint8_t> before(
          cache.pool().data(), cache.pool().data() + cache.pool().size());
      ops->append_kv({&pool},
                     {.write = {.k = {write.k.data(), rows, cols, cols},
                                .v = {write.v.data(), rows, cols, cols},
                                .slots = write.slots,
                                .kv = cache.view()}});
      const int64_t element = shape.dtype == KvDtype::kF32 ? 4 : 2;
      int64_t written = 0;
      for (int64_t t = 0; t < rows; ++t) {
        if (write.slots[t] < 0) continue;
        written += 2 * cols * element;
        for (int64_t d = 0; d < cols; ++d) {
          KvPlace at = {.block = write.slots[t] / shape.block_tokens,
                        .head = d / shape.head_dim,
                        .offset = write.slots[t] % shape.block_tokens,
                        .d = d % shape.head_dim};
          for (at.comp = 0; at.comp < 2; ++at.comp) {
            const float x = (at.comp == 0 ? write.k : write.v)[t * cols + d];
            const float want =
                shape.dtype == KvDtype::kF32 ? x : Bf16ToF32(F32ToBf16(x));
            ASSERT_EQ(StoredKv(cache.view(), at), want) << ops->name;
          }
        }
      }
      // The canary 0xff.. is a NaN, which no written value is: what changed
      // is at most what was written.
      int64_t changed = 0;
      for (int64_t i = 0; i < cache.pool().size(); ++i) {
        changed += cache.pool().data()[i] != before[i];
      }
      EXPECT_LE(changed, written);
      EXPECT_GT(changed, written / 2);
      const std::vector<uint8_t> after(
          cache.pool().data(), cache.pool().data() + cache.pool().size());
      if (portable.empty()) portable = after;
      EXPECT_EQ(after, portable) << ops->name;
    }
  }
}

TEST(WriteKv, UnwrittenPlacesKeepTheirBytes) {
  const CacheShape& shape = kShapes[0];
  ThreadPool pool(1);
  const int64_t cols = shape.kv_heads * shape.head_dim;
  const std::vector<float> row(cols, 1.0f);
  for (const OpTable* ops : Levels()) {
    PagedCache cache(shape, 1, 64, 1);
    const int64_t slot = 2 * shape.block_tokens + 5;
    ops->append_kv({&pool}, {.write = {.k = {row.data(), 1, cols, cols},
                                       .v = {row.data(), 1, cols, cols},
                                       .slots = {&slot, 1},
                                       .kv = cache.view()}});
    int64_t ones = 0;
    int64_t canaries = 0;
    for (int64_t block = 0; block < cache.view().num_blocks; ++block) {
      for (int64_t i = 0; i < 2 * cols * shape.block_tokens; ++i) {
        uint16_t bits;
        std::memcpy(&bits,
                    cache.pool().data() +
                        block * cache.view().block_stride_bytes + i * 2,
                    2);
        ones += bits == 0x3f80;
        canaries += bits == 0xffff;
      }
    }
    EXPECT_EQ(ones, 2 * cols);
    EXPECT_EQ(canaries + ones,
              cache.view().num_blocks * 2 * cols * shape.block_tokens);
  }
}

TEST(CopyBlocks, CopiesWholeBlocksAndNothingElse) {
  const int64_t stride = 200 * 1024 + 256;
  AlignedBytes pool_bytes(7 * stride);
  std::mt19937 rng(2);
  for (int64_t i = 0; i < pool_bytes.size(); ++i) {
    pool_bytes.data()[i] = static_cast<uint8_t>(rng());
  }
  const std::vector<uint8_t> before(pool_bytes.data(),
                                    pool_bytes.data() + pool_bytes.size());
  const BlockCopyPair pairs[] = {{1, 4}, {1, 6}, {3, 2}};
  std::vector<uint8_t> want = before;
  for (const BlockCopyPair& pair : pairs) {
    std::copy(before.begin() + pair.from * stride,
              before.begin() + (pair.from + 1) * stride,
              want.begin() + pair.to * stride);
  }
  for (const OpTable* ops : Levels()) {
    std::copy(before.begin(), before.end(), pool_bytes.data());
    ThreadPool pool(2);
    ops->copy_blocks({&pool}, {.base = pool_bytes.data(),
                               .block_stride_bytes = stride,
                               .pairs = pairs});
    EXPECT_EQ(std::vector<uint8_t>(pool_bytes.data(),
                                   pool_bytes.data() + pool_bytes.size()),
              want);
    ops->copy_blocks({&pool},
                     {.base = pool_bytes.data(), .block_stride_bytes = stride});
  }
}

}  // namespace
}  // namespace sluice::kernels
