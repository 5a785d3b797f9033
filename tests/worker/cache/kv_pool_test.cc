#include "worker/cache/kv_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/op_table.h"

namespace sluice::worker {
namespace {

KvPoolOptions Options() {
  return {.num_blocks = 6,
          .block_tokens = 32,
          .layers = 3,
          .kv_heads = 2,
          .head_dim = 16,
          .dtype = kernels::KvDtype::kBF16};
}

TEST(KvPool, LayoutFollowsDtypeAndBlockTokens) {
  struct Case {
    kernels::KvDtype dtype;
    uint32_t block_tokens;
    kvtransfer::InnerOrder order;
  };
  for (const Case& c :
       {Case{kernels::KvDtype::kBF16, 16, kvtransfer::InnerOrder::kCpuTiles},
        Case{kernels::KvDtype::kBF16, 8, kvtransfer::InnerOrder::kCanonical},
        Case{kernels::KvDtype::kF32, 64, kvtransfer::InnerOrder::kCanonical}}) {
    KvPoolOptions options = Options();
    options.dtype = c.dtype;
    options.block_tokens = c.block_tokens;
    const auto layout = KvLayoutFor(options);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->inner_order, c.order);
  }
}

TEST(KvPool, RefusesWhatCannotBe) {
  for (auto spoil : {+[](KvPoolOptions* o) { o->num_blocks = 1; },
                     +[](KvPoolOptions* o) { o->block_tokens = 48; },
                     +[](KvPoolOptions* o) { o->block_tokens = 512; },
                     +[](KvPoolOptions* o) { o->kv_heads = 0; },
                     +[](KvPoolOptions* o) { o->layers = 0; }}) {
    KvPoolOptions options = Options();
    spoil(&options);
    EXPECT_EQ(KvPool::Create(options).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

// What the kernels write through a view is where the layout says.
TEST(KvPool, ViewsAndLayoutAgree) {
  for (kernels::KvDtype dtype :
       {kernels::KvDtype::kBF16, kernels::KvDtype::kF32}) {
    KvPoolOptions options = Options();
    options.dtype = dtype;
    const auto pool = KvPool::Create(options);
    ASSERT_TRUE(pool.ok()) << pool.status();
    const kvtransfer::GroupLayout& layout = (*pool)->layout();
    EXPECT_GE((*pool)->size_bytes(), uint64_t{6} * layout.block_stride_bytes());
    ASSERT_EQ((*pool)->layers().size(), 3u);

    kernels::ThreadPool threads(1);
    const auto ops = kernels::SelectOpTable(kernels::Isa::kPortable);
    ASSERT_TRUE(ops.ok());
    const int64_t width = 2 * 16;
    std::vector<float> k(width), v(width);
    for (int64_t i = 0; i < width; ++i) {
      k[i] = static_cast<float>(1 + i);
      v[i] = static_cast<float>(-1 - i);
    }
    constexpr int kLayer = 1, kBlock = 4, kToken = 19;
    const int64_t slots[] = {kBlock * 32 + kToken};
    (*ops)->append_kv({&threads}, {.write = {.k = {k.data(), 1, width, width},
                                             .v = {v.data(), 1, width, width},
                                             .slots = slots,
                                             .kv = (*pool)->layers()[kLayer]}});
    std::vector<bool> written((*pool)->size_bytes(), false);
    for (int comp = 0; comp < 2; ++comp) {
      for (int head = 0; head < 2; ++head) {
        for (int d = 0; d < 16; ++d) {
          const int64_t at =
              layout.HeadBlockOffset(kBlock, kLayer, comp, head) +
              layout.ElementOffset(comp, kToken, d);
          const float want = (comp == 0 ? 1.0f : -1.0f) *
                             static_cast<float>(1 + head * 16 + d);
          uint32_t bits = 0;
          const uint8_t* bytes = (*pool)->base() + at;
          for (int b = 0; b < layout.element_bytes(); ++b) {
            bits |= uint32_t{bytes[b]} << 8 * b;
            written[at + b] = true;
          }
          if (dtype == kernels::KvDtype::kBF16) bits <<= 16;
          float got;
          static_assert(sizeof(got) == sizeof(bits));
          std::memcpy(&got, &bits, sizeof(got));
          EXPECT_EQ(got, want) << comp << head << d;
        }
      }
    }
    // And nowhere else.
    for (uint64_t i = 0; i < (*pool)->size_bytes(); ++i) {
      if (!written[i]) {
        ASSERT_EQ((*pool)->base()[i], 0) << i;
      }
    }
  }
}

TEST(KvPool, ManifestGroupDescribesIt) {
  const auto pool = KvPool::Create(Options());
  ASSERT_TRUE(pool.ok());
  const kvtransfer::GroupManifest group = (*pool)->manifest_group();
  EXPECT_EQ(group.num_blocks, 6u);
  EXPECT_EQ(group.num_heads, 2u);
  EXPECT_EQ(group.head_dim, 16u);
  EXPECT_EQ(group.block_stride_bytes,
            static_cast<uint64_t>((*pool)->layout().block_stride_bytes()));
  EXPECT_EQ(group.region_key, (*pool)->memory().region().key);
  EXPECT_FALSE(group.region_key.empty());
}

}  // namespace
}  // namespace sluice::worker
