#include "kvtransfer/layout_manifest.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/kvtransfer/testing/kv_worker.h"

namespace sluice::kvtransfer {
namespace {

using Pair = std::pair<uint32_t, uint32_t>;

TEST(LayoutManifest, HeadIntervals) {
  EXPECT_EQ(HeadInterval(0, 3, 8), Pair(0, 2));
  EXPECT_EQ(HeadInterval(1, 3, 8), Pair(2, 5));
  EXPECT_EQ(HeadInterval(2, 3, 8), Pair(5, 8));
  EXPECT_EQ(HeadInterval(0, 3, 2), Pair(0, 1));
  EXPECT_EQ(HeadInterval(1, 3, 2), Pair(0, 1));
  EXPECT_EQ(HeadInterval(2, 3, 2), Pair(1, 2));
  for (uint32_t r = 0; r < 8; ++r) {
    EXPECT_EQ(HeadInterval(r, 8, 4), Pair(r / 2, r / 2 + 1));
    EXPECT_EQ(HeadInterval(r, 8, 1), Pair(0, 1));
  }
}

TEST(LayoutManifest, GenerationsGrow) {
  EXPECT_EQ(MakeGeneration(5'000, 7), (uint64_t{5} << 16) | 7);
  EXPECT_LT(MakeGeneration(5'000, 0xFFFF), MakeGeneration(6'000, 0));
}

void ForEachChange(
    const std::function<void(const char*, LayoutManifest)>& check) {
  const LayoutManifest base = MakeManifest({});
  const auto with = [&](const char* name, auto change) {
    LayoutManifest m = base;
    change(m, m.replicas[0].ranks[0], m.replicas[0].ranks[0].groups[0]);
    check(name, m);
  };
  using M = LayoutManifest;
  using R = RankManifest;
  using G = GroupManifest;
  with("worker", [](M& m, R&, G&) { m.worker += "x"; });
  with("generation", [](M& m, R&, G&) { ++m.generation; });
  with("kv", [](M& m, R&, G&) { m.kv_fingerprint[3] ^= 1; });
  with("draft", [](M& m, R&, G&) { m.draft_fingerprint = "d"; });
  with("numerics", [](M& m, R&, G&) { m.numerics_id += "x"; });
  with("block_tokens", [](M& m, R&, G&) { m.block_tokens *= 2; });
  with("replicas", [](M& m, R&, G&) { m.replicas.push_back(m.replicas[0]); });
  with("rank", [](M&, R& r, G&) { ++r.rank; });
  with("first_layer", [](M&, R& r, G&) { ++r.first_layer; });
  with("layers", [](M&, R& r, G&) { ++r.num_layers; });
  with("groups", [](M&, R& r, G&) { r.groups.push_back(r.groups[0]); });
  with("id", [](M&, R&, G& g) { ++g.id; });
  with("kind", [](M&, R&, G& g) { g.kind = GroupKind::kRope; });
  with("comps", [](M&, R&, G& g) { ++g.comps; });
  with("heads_total", [](M&, R&, G& g) { ++g.heads_total; });
  with("first_head", [](M&, R&, G& g) { ++g.first_head; });
  with("num_heads", [](M&, R&, G& g) { ++g.num_heads; });
  with("head_dim", [](M&, R&, G& g) { ++g.head_dim; });
  with("dtype", [](M&, R&, G& g) { g.dtype = KvDtype::kF32; });
  with("order", [](M&, R&, G& g) { g.inner_order = InnerOrder::kCpuTiles; });
  with("token_group", [](M&, R&, G& g) { g.token_group = 16; });
  with("stride", [](M&, R&, G& g) { g.block_stride_bytes += 256; });
  with("num_blocks", [](M&, R&, G& g) { ++g.num_blocks; });
  with("base", [](M&, R&, G& g) { g.base_address += 64; });
  with("key", [](M&, R&, G& g) { g.region_key += "k"; });
  with("memory", [](M&, R&, G& g) { g.memory_kind = "cuda"; });
}

TEST(LayoutManifest, IdCoversEveryField) {
  const std::string id = MakeManifest({}).manifest_id;
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(id, MakeManifest({}).manifest_id);
  int count = 0;
  ForEachChange([&](const char* name, const LayoutManifest& m) {
    ++count;
    EXPECT_NE(ComputeManifestId(m), id) << name;
    EXPECT_FALSE(ValidateManifest(m).ok()) << name;  // the id is wrong now
  });
  EXPECT_EQ(count, 26);
}

TEST(LayoutManifest, ValidationRefusesHostileSizes) {
  const auto refused = [](auto change) {
    LayoutManifest m = MakeManifest({});
    change(m.replicas[0].ranks[0], m.replicas[0].ranks[0].groups[0]);
    m.manifest_id = ComputeManifestId(m);
    return ValidateManifest(m).code() == absl::StatusCode::kInvalidArgument;
  };
  using R = RankManifest;
  using G = GroupManifest;
  EXPECT_FALSE(refused([](R&, G&) {}));
  EXPECT_TRUE(refused([](R&, G& g) { g.num_blocks = UINT64_MAX; }));
  EXPECT_TRUE(refused([](R&, G& g) { g.base_address = UINT64_MAX - 63; }));
  EXPECT_TRUE(
      refused([](R&, G& g) { g.block_stride_bytes = uint64_t{1} << 62; }));
  EXPECT_TRUE(refused([](R&, G& g) { g.block_stride_bytes = 0; }));
  EXPECT_TRUE(refused([](R&, G& g) { g.first_head = UINT32_MAX; }));
  EXPECT_TRUE(refused([](R&, G& g) { g.head_dim = UINT32_MAX; }));
  EXPECT_TRUE(refused([](R&, G& g) { g.comps = UINT32_MAX; }));
  EXPECT_TRUE(refused([](R& r, G&) { r.num_layers = UINT32_MAX; }));
  EXPECT_TRUE(refused([](R& r, G&) { r.first_layer = 1; }));
  EXPECT_TRUE(refused([](R&, G& g) { g.heads_total = 3; }));
}

TEST(LayoutManifest, CompatibilityTexts) {
  const auto status = [](const KvWorkerSpec& a, const KvWorkerSpec& b,
                         auto change) {
    LayoutManifest theirs = MakeManifest(b);
    change(theirs);
    return CheckCompatible(MakeManifest(a), theirs);
  };
  const auto same = [](LayoutManifest&) {};
  EXPECT_TRUE(status({},
                     {.name = "p",
                      .block_tokens = 64,
                      .inner_order = InnerOrder::kCpuTiles,
                      .num_blocks = 7},
                     same)
                  .ok());
  struct Case {
    KvWorkerSpec theirs;
    const char* text;
  };
  const Case cases[] = {
      {{.head_dim = 16}, "kv layouts differ: group 0 head_dim 8 vs 16"},
      {{.heads = 4}, "kv layouts differ: group 0 heads_total 2 vs 4"},
      {{.dtype = KvDtype::kF32},
       "kv layouts differ: group 0 dtype bf16 vs f32"},
      {{.layers = 3}, "kv layouts differ: group 0 layers 2 vs 3"},
  };
  for (const Case& c : cases) {
    const absl::Status s = status({}, c.theirs, same);
    EXPECT_EQ(s.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(s.message(), c.text);
  }
  // Tiles of 16 tokens cannot be cut by blocks of 8.
  EXPECT_EQ(
      status({.block_tokens = 8}, {.inner_order = InnerOrder::kCpuTiles}, same)
          .message(),
      "kv layouts differ: group 0 block_tokens 8 vs 16");
  // Numerics come first, whatever else differs.
  EXPECT_EQ(status({}, {.head_dim = 16},
                   [](LayoutManifest& m) { m.numerics_id = "x86.2/1"; })
                .message(),
            "numerics x86.1/0 cannot continue x86.2/1");
  EXPECT_EQ(status({}, {}, [](LayoutManifest& m) { m.kv_fingerprint[0] = 'g'; })
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice::kvtransfer
