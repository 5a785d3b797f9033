#include "kvtransfer/transfer_plan.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "kvtransfer/tile_digest.h"
#include "tests/kvtransfer/testing/kv_worker.h"

namespace sluice::kvtransfer {
namespace {

struct ShardSpec {
  int ranks = 1;
  int stages = 1;  // layer splits
  int heads = 4;
  int comps = 2;
  int layers = 2;
  int head_dim = 4;
  int block_tokens = 16;
  InnerOrder order = InnerOrder::kCanonical;
  uint64_t num_blocks = 40;
};

LayoutManifest Sharded(const ShardSpec& spec) {
  LayoutManifest m;
  m.worker = "w";
  m.generation = 1;
  m.kv_fingerprint = std::string(32, 'f');
  m.block_tokens = static_cast<uint32_t>(spec.block_tokens);
  ReplicaManifest replica;
  for (int stage = 0; stage < spec.stages; ++stage) {
    for (int r = 0; r < spec.ranks; ++r) {
      RankManifest rank;
      rank.rank = static_cast<uint32_t>(stage * spec.ranks + r);
      rank.first_layer =
          static_cast<uint32_t>(spec.layers * stage / spec.stages);
      rank.num_layers =
          static_cast<uint32_t>(spec.layers * (stage + 1) / spec.stages) -
          rank.first_layer;
      const auto [first, end] = HeadInterval(static_cast<uint32_t>(r),
                                             static_cast<uint32_t>(spec.ranks),
                                             static_cast<uint32_t>(spec.heads));
      const GroupLayout layout{.comps = spec.comps,
                               .heads = static_cast<int>(end - first),
                               .head_dim = spec.head_dim,
                               .inner_order = spec.order,
                               .layers = static_cast<int>(rank.num_layers),
                               .block_tokens = spec.block_tokens};
      GroupManifest group = ManifestOf(0, layout, spec.num_blocks);
      group.heads_total = static_cast<uint32_t>(spec.heads);
      group.first_head = first;
      rank.groups.push_back(group);
      replica.ranks.push_back(rank);
    }
  }
  m.replicas.push_back(replica);
  m.manifest_id = ComputeManifestId(m);
  return m;
}

using StreamKey = std::pair<uint32_t, uint32_t>;
std::map<StreamKey, std::vector<uint32_t>> HeadsOf(const ShardSpec& a,
                                                   const ShardSpec& b) {
  std::map<StreamKey, std::vector<uint32_t>> heads;
  const auto streams = PlanStreams(Sharded(a), 0, Sharded(b), 0);
  for (const StreamPlan& s : *streams) {
    heads[{s.source_rank, s.target_rank}] = s.groups[0].heads;
  }
  return heads;
}

using Heads = std::map<StreamKey, std::vector<uint32_t>>;

TEST(TransferPlan, WorkedExampleTwoToThreeRanks) {
  const ShardSpec from{.ranks = 2, .heads = 6, .head_dim = 64};
  const ShardSpec to{.ranks = 3, .heads = 6, .head_dim = 64};
  const LayoutManifest a = Sharded(from), b = Sharded(to);
  ASSERT_TRUE(ValidateManifest(a).ok());
  const std::vector<uint32_t> blocks = {4, 9, 2};
  const auto plan = PlanTransfer({&a, 0, blocks}, {&b, 0, blocks}, 0, 40);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const struct {
    StreamKey key;
    std::vector<uint32_t> heads;
    uint64_t copy_bytes, bytes;
  } want[] = {{{0, 0}, {0, 1}, 4096, 49152},
              {{0, 1}, {2}, 2048, 24576},
              {{1, 1}, {3}, 2048, 24576},
              {{1, 2}, {4, 5}, 4096, 49152}};
  ASSERT_EQ(plan->size(), 4u);
  uint64_t sum = 0;
  for (size_t i = 0; i < 4; ++i) {
    const PlannedStream& s = (*plan)[i];
    EXPECT_EQ(StreamKey(s.stream.source_rank, s.stream.target_rank),
              want[i].key);
    EXPECT_EQ(s.stream.groups[0].heads, want[i].heads);
    EXPECT_EQ(s.copies.size(), 12u);
    uint64_t bytes = 0;
    for (const Copy& copy : s.copies) {
      EXPECT_EQ(copy.size_bytes, want[i].copy_bytes);
      bytes += copy.size_bytes;
    }
    EXPECT_EQ(bytes, want[i].bytes);
    sum += bytes;
  }
  EXPECT_EQ(sum, 147456u);
  EXPECT_EQ(
      HeadsOf(to, from),
      (Heads{
          {{0, 0}, {0, 1}}, {{1, 0}, {2}}, {{1, 1}, {3}}, {{2, 1}, {4, 5}}}));
}

TEST(TransferPlan, WorkedExamplesOfHeads) {
  EXPECT_EQ(HeadsOf({.ranks = 2, .heads = 8}, {.ranks = 3, .heads = 8}),
            (Heads{{{0, 0}, {0, 1}},
                   {{0, 1}, {2, 3}},
                   {{1, 1}, {4}},
                   {{1, 2}, {5, 6, 7}}}));
  const auto mla = [](int ranks) {
    return ShardSpec{.ranks = ranks, .heads = 1, .comps = 1};
  };
  EXPECT_EQ(HeadsOf(mla(4), mla(2)), (Heads{{{0, 0}, {0}}, {{1, 1}, {0}}}));
  EXPECT_EQ(
      HeadsOf(mla(2), mla(4)),
      (Heads{{{0, 0}, {0}}, {{1, 1}, {0}}, {{0, 2}, {0}}, {{1, 3}, {0}}}));
  EXPECT_EQ(
      HeadsOf({.ranks = 8}, {.ranks = 2}),
      (Heads{{{0, 0}, {0}}, {{2, 0}, {1}}, {{5, 1}, {2}}, {{7, 1}, {3}}}));
}

TEST(TransferPlan, WorkedExampleOfUnequalBlocks) {
  const std::vector<TokenRun> want = {
      {0, 16, 0, 0, 0, 0},   {16, 16, 1, 0, 0, 16}, {32, 16, 2, 0, 0, 32},
      {48, 16, 3, 0, 0, 48}, {64, 16, 4, 0, 1, 0},  {80, 16, 5, 0, 1, 16},
      {96, 4, 6, 0, 1, 32}};
  EXPECT_EQ(CutTokens(0, 100, 16, 64), want);
  ShardSpec spec{.heads = 8, .layers = 32, .head_dim = 128};
  ShardSpec big = spec;
  big.block_tokens = 64;
  const LayoutManifest a = Sharded(spec), b = Sharded(big);
  const auto uneven = PlanTransfer({&a, 0, Blocks(100, 16, 1)},
                                   {&b, 0, Blocks(100, 64, 1)}, 0, 100);
  ASSERT_TRUE(uneven.ok());
  EXPECT_EQ((*uneven)[0].copies.size(), 3584u);
  for (const Copy& copy : (*uneven)[0].copies) EXPECT_LE(copy.size_bytes, 4096);
  const auto even = PlanTransfer({&a, 0, Blocks(100, 16, 1)},
                                 {&a, 0, Blocks(100, 16, 5)}, 0, 100);
  ASSERT_EQ((*even)[0].copies.size(), 7u);
  for (const Copy& copy : (*even)[0].copies) {
    EXPECT_EQ(copy.size_bytes, 2097152u);
  }
}

TEST(TransferPlan, RefusesBadLists) {
  const LayoutManifest a = Sharded({}), b = Sharded({.block_tokens = 32});
  using List = std::vector<uint32_t>;
  struct Case {
    List source, target;
    uint32_t skip, tokens, replica;
    const char* text;
  };
  const Case cases[] = {
      {{1, 2, 3}, {1, 2}, 0, 70, 0, "3 blocks for 70 tokens"},
      {{1, 2, 3, 4, 5}, {1, 2}, 0, 70, 0, "2 blocks for 70 tokens"},
      {{1, 2, 0, 4, 5}, {1, 2, 3}, 0, 70, 0, "block 0 at 2"},
      {{1, 2, 40, 4, 5}, {1, 2, 3}, 0, 70, 0, "block 40 at 2, limit 40"},
      {{1, 2, 3, 4, 5}, {1, 2, 1}, 0, 70, 0, "block 1 twice, at 2"},
      {{1, 2, 3, 4, 5}, {1, 2, 3}, 16, 70, 0, "skip of 16 tokens"},
      {{1, 2, 3, 4, 5}, {1, 2, 3}, 96, 70, 0, "skip of 96 tokens"},
      {{1, 2, 3, 4, 5}, {1, 2, 3}, 0, 70, 1, "replica 1 of w, has 1"},
      {{}, {}, 0, 0, 0, "num_tokens 0"},
      {{}, {}, 0, (1 << 24) + 1, 0, "num_tokens 16777217"},
  };
  for (const Case& c : cases) {
    const auto plan = PlanTransfer({&a, 0, c.source}, {&b, c.replica, c.target},
                                   c.skip, c.tokens);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(plan.status().message()).find(c.text),
              std::string::npos)
        << plan.status();
  }
  // Entries wholly below skip do not matter.
  EXPECT_TRUE(
      PlanTransfer({&a, 0, List{0, 0, 3, 4, 5}}, {&b, 0, List{0, 2, 3}}, 32, 70)
          .ok());
}

// --- against a naive element-wise copy --------------------------------------

uint16_t ValueAt(uint32_t layer, int comp, uint32_t head, uint32_t token,
                 int d) {
  return static_cast<uint16_t>(MixWord(
      (((uint64_t{layer} * 2 + comp) * 16 + head) << 20) + token * 64 + d));
}

struct Memory {
  LayoutManifest manifest;
  std::vector<uint32_t> blocks;
  std::vector<std::vector<std::byte>> ranks;  // by index
};

Memory MakeMemory(const ShardSpec& spec, uint32_t tokens, uint32_t first) {
  Memory memory{Sharded(spec), Blocks(tokens, spec.block_tokens, first, 2), {}};
  for (const RankManifest& rank : memory.manifest.replicas[0].ranks) {
    const GroupManifest& g = rank.groups[0];
    memory.ranks.emplace_back(g.num_blocks * g.block_stride_bytes,
                              std::byte{0xEE});
  }
  return memory;
}

// Calls fn(bytes of the element, layer, comp, head, token, d).
template <typename Fn>
void ForEachElement(Memory& memory, uint32_t t0, uint32_t t1, Fn fn) {
  const uint32_t bt = memory.manifest.block_tokens;
  for (size_t r = 0; r < memory.ranks.size(); ++r) {
    const RankManifest& rank = memory.manifest.replicas[0].ranks[r];
    const GroupManifest& g = rank.groups[0];
    const GroupLayout l = LayoutOf(g, rank, bt);
    for (int layer = 0; layer < l.layers; ++layer) {
      for (int comp = 0; comp < l.comps; ++comp) {
        for (int head = 0; head < l.heads; ++head) {
          for (uint32_t t = t0; t < t1; ++t) {
            const int64_t at =
                l.HeadBlockOffset(memory.blocks[t / bt], layer, comp, head);
            for (int d = 0; d < l.head_dim; ++d) {
              fn(memory.ranks[r].data() + at +
                     l.ElementOffset(comp, static_cast<int>(t % bt), d),
                 rank.first_layer + layer, comp, g.first_head + head, t, d);
            }
          }
        }
      }
    }
  }
}

size_t RankIndex(const Memory& memory, uint32_t rank) {
  for (size_t r = 0; r < memory.ranks.size(); ++r) {
    if (memory.manifest.replicas[0].ranks[r].rank == rank) return r;
  }
  return 0;
}

void ApplyCopies(const PlannedStream& planned, Memory& from, Memory& to,
                 uint32_t skip, uint32_t tokens) {
  const StreamPlan& s = planned.stream;
  std::vector<std::byte>& source = from.ranks[RankIndex(from, s.source_rank)];
  std::vector<std::byte>& target = to.ranks[RankIndex(to, s.target_rank)];
  const RectanglePlan plan(s, {skip, tokens, s.l0, s.l1});
  uint32_t next_run = 0;
  for (const Copy& copy : planned.copies) {
    EXPECT_EQ(copy.first_run, next_run);  // in order, none left out
    next_run += copy.num_runs;
    const StreamGroup& g = s.groups[copy.group_index];
    ASSERT_LE(copy.source_offset + copy.size_bytes, source.size());
    if (!g.converts()) {
      std::memcpy(target.data() + copy.target_offset,
                  source.data() + copy.source_offset, copy.size_bytes);
      continue;
    }
    const RectanglePlan::Run run = plan.run(copy.first_run);
    CopyRun(run.shape, g.source.layout.inner_order,
            source.data() + copy.source_offset, g.target.layout.inner_order,
            target.data() + copy.target_offset);
  }
  EXPECT_EQ(next_run, plan.num_runs());
}

void CheckPair(const ShardSpec& a, const ShardSpec& b, uint32_t skip,
               uint32_t tokens) {
  Memory from = MakeMemory(a, tokens, 1);
  Memory to = MakeMemory(b, tokens, 2);
  ForEachElement(from, 0, tokens, [](std::byte* at, auto... where) {
    const uint16_t v = ValueAt(where...);
    std::memcpy(at, &v, 2);
  });
  const auto plan = PlanTransfer({&from.manifest, 0, from.blocks},
                                 {&to.manifest, 0, to.blocks}, skip, tokens);
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (const PlannedStream& stream : *plan) {
    ApplyCopies(stream, from, to, skip, tokens);
  }
  size_t wrong = 0;
  ForEachElement(to, skip, tokens, [&](std::byte* at, auto... where) {
    const uint16_t v = ValueAt(where...);
    wrong += std::memcmp(at, &v, 2) != 0;
  });
  EXPECT_EQ(wrong, 0u);
  // Nothing outside the listed blocks.
  for (size_t r = 0; r < to.ranks.size(); ++r) {
    const GroupManifest& g = to.manifest.replicas[0].ranks[r].groups[0];
    for (uint64_t block = 0; block < g.num_blocks; ++block) {
      const auto first = to.blocks.begin() + skip / b.block_tokens;
      if (std::find(first, to.blocks.end(), block) != to.blocks.end()) continue;
      for (uint64_t i = 0; i < g.block_stride_bytes; ++i) {
        ASSERT_EQ(to.ranks[r][block * g.block_stride_bytes + i],
                  std::byte{0xEE});
      }
    }
  }
}

TEST(TransferPlan, EqualsAnElementWiseCopyForAllBlocksAndOrders) {
  for (const int from_block : {8, 16, 32, 64}) {
    for (const int to_block : {8, 16, 32, 64}) {
      for (const InnerOrder from :
           {InnerOrder::kCanonical, InnerOrder::kCpuTiles}) {
        for (const InnerOrder to :
             {InnerOrder::kCanonical, InnerOrder::kCpuTiles}) {
          const bool tiles =
              from == InnerOrder::kCpuTiles || to == InnerOrder::kCpuTiles;
          if (tiles && std::min(from_block, to_block) < 16) continue;
          for (const uint32_t tokens : {1u, 64u, 75u, 128u}) {
            for (uint32_t skip = 0; skip < tokens; skip += 64) {
              SCOPED_TRACE(testing::Message()
                           << from_block << "->" << to_block << " tokens "
                           << tokens << " skip " << skip);
              CheckPair({.heads = 2, .block_tokens = from_block, .order = from},
                        {.heads = 2, .block_tokens = to_block, .order = to},
                        skip, tokens);
            }
          }
        }
      }
    }
  }
}

TEST(TransferPlan, EqualsAnElementWiseCopyForAllRanks) {
  for (const int heads : {1, 2, 4, 6, 8}) {
    for (int from = 1; from <= 8; ++from) {
      for (int to = 1; to <= 8; ++to) {
        SCOPED_TRACE(testing::Message()
                     << from << "->" << to << " heads " << heads);
        CheckPair({.ranks = from,
                   .heads = heads,
                   .block_tokens = 8,
                   .num_blocks = 16},
                  {.ranks = to, .heads = heads, .num_blocks = 16}, 16, 45);
      }
    }
  }
}

TEST(TransferPlan, EqualsAnElementWiseCopyForLayerSplits) {
  for (const int from : {1, 2, 3}) {
    for (const int to : {1, 2, 5}) {
      CheckPair({.ranks = 2, .stages = from, .layers = 5, .num_blocks = 16},
                {.ranks = 3, .stages = to, .layers = 5, .num_blocks = 16}, 0,
                40);
    }
  }
}

// Whatever is cut comes out once, at spans, and no piece is large.
TEST(TransferPlan, RectanglesAreCutAtSpansAndKeptSmall) {
  const struct {
    Rectangle whole;
    uint32_t span;
    uint64_t token_layer_bytes;
    size_t want;
  } cases[] = {
      {{0, 40, 0, 2}, 16, 1536, 1},
      {{0, 300, 0, 32}, 64, 2048, 3},      // 128 tokens of all layers
      {{80, 300, 3, 32}, 64, 2048, 2},     // the first piece to a span's end
      {{0, 256, 0, 10}, 64, 32768, 12},    // of 4 layers, then of 2
      {{0, 1000, 0, 3}, 256, 100000, 12},  // a span of a layer is too much
      {{5, 6, 0, 1}, 16, 0, 1},
      {{0, 1 << 24, 0, 1}, 8, 1, 2},
  };
  for (const auto& c : cases) {
    const std::vector<Rectangle> cut =
        CutRectangle(c.whole, c.span, c.token_layer_bytes);
    EXPECT_EQ(cut.size(), c.want);
    uint64_t area = 0;
    for (size_t i = 0; i < cut.size(); ++i) {
      const Rectangle& r = cut[i];
      EXPECT_TRUE(r.t0 % c.span == 0 || r.t0 == c.whole.t0);
      EXPECT_TRUE(r.t1 % c.span == 0 || r.t1 == c.whole.t1);
      const uint64_t size = uint64_t{r.t1 - r.t0} * (r.l1 - r.l0);
      EXPECT_TRUE(size * c.token_layer_bytes <= 8 << 20 ||
                  (r.l1 - r.l0 == 1 && r.t1 - r.t0 <= c.span));
      area += size;
      for (size_t j = 0; j < i; ++j) {
        const Rectangle& o = cut[j];
        EXPECT_TRUE(o.t1 <= r.t0 || r.t1 <= o.t0 || o.l1 <= r.l0 ||
                    r.l1 <= o.l0)
            << "overlap";
      }
    }
    EXPECT_EQ(area,
              uint64_t{c.whole.t1 - c.whole.t0} * (c.whole.l1 - c.whole.l0));
  }
}

TEST(TransferPlan, RunsAreFoundByWireOffset) {
  const LayoutManifest a = Sharded({.order = InnerOrder::kCpuTiles});
  const LayoutManifest b = Sharded({.block_tokens = 64});
  const auto streams = PlanStreams(a, 0, b, 0);
  const RectanglePlan plan((*streams)[0], {0, 100, 0, 2});
  uint64_t offset = 0;
  for (uint32_t i = 0; i < plan.num_runs(); ++i) {
    const RectanglePlan::Run run = plan.run(i);
    EXPECT_EQ(run.wire_offset, offset);
    EXPECT_EQ(plan.FindRun(offset), i);
    EXPECT_EQ(plan.FindRun(offset + run.wire_bytes - 1), i);
    offset += run.wire_bytes;
  }
  EXPECT_EQ(plan.wire_bytes(), offset);
  EXPECT_EQ(plan.num_spans(), 2u);
}

TEST(TileDigest, LevelsAgree) {
  std::vector<std::byte> tile(16 * 128 * 2);
  for (size_t i = 0; i < tile.size(); ++i) {
    tile[i] = static_cast<std::byte>(MixWord(i));
  }
  for (const uint32_t head_dim : {4u, 64u, 100u, 128u}) {
    for (const bool is_key : {false, true}) {
      for (uint32_t tokens = 1; tokens <= 16; ++tokens) {
        const TileShape shape{is_key, head_dim, tokens, 12345};
        const uint64_t want =
            DigestTileWordsAt(DigestLevel::kPortable, shape, tile.data());
        for (int l = 1; l <= static_cast<int>(BestDigestLevel()); ++l) {
          EXPECT_EQ(DigestTileWordsAt(static_cast<DigestLevel>(l), shape,
                                      tile.data()),
                    want);
        }
      }
    }
  }
}

// Placing a run in pieces gives the bytes, and the digest, of placing it whole.
TEST(RunCopier, OrdersAndPiecesAgree) {
  for (const int head_dim : {2, 4, 6, 64, 600}) {
    for (uint32_t comp = 0; comp < 2; ++comp) {
      for (const uint32_t tokens : {1u, 15u, 16u, 40u}) {
        RunShape run{
            .group_id = 3,
            .index = {.layer = 2,
                      .comps = 2,
                      .comp = comp,
                      .heads_total = 5,
                      .head = 4,
                      .token = 96,
                      .words = static_cast<uint32_t>((head_dim * 2 + 7) / 8)},
            .head_dim = static_cast<uint32_t>(head_dim),
            .tokens = tokens};
        const uint64_t tile_bytes = run.BytesIn(InnerOrder::kCpuTiles);
        std::vector<std::byte> rows(tile_bytes), tiles(tile_bytes),
            pieces(tile_bytes), back(tile_bytes), copy(tile_bytes);
        for (uint64_t i = 0; i < tokens * run.token_bytes(); ++i) {
          rows[i] = static_cast<std::byte>(MixWord(i));
        }
        constexpr InnerOrder kRows = InnerOrder::kCanonical;
        constexpr InnerOrder kTiles = InnerOrder::kCpuTiles;
        const uint64_t want = DigestRun(run, kRows, rows.data());
        EXPECT_EQ(CopyRun(run, kRows, rows.data(), kRows, copy.data()), want);
        StoreFence();
        EXPECT_EQ(copy, rows);
        EXPECT_EQ(CopyRun(run, kRows, rows.data(), kTiles, tiles.data()), want);
        EXPECT_EQ(DigestRun(run, kTiles, tiles.data()), want);
        EXPECT_EQ(CopyRun(run, kTiles, tiles.data(), kRows, back.data()), want);
        EXPECT_EQ(back, rows);
        EXPECT_EQ(CopyRun(run, kTiles, tiles.data(), kTiles, copy.data()),
                  want);
        EXPECT_EQ(copy, tiles);
        for (uint64_t at = 0; at < tokens * run.token_bytes(); at += 14) {
          PlaceCanonicalPiece(
              run, at, std::min<uint64_t>(14, tokens * run.token_bytes() - at),
              rows.data() + at, kTiles, pieces.data());
        }
        EXPECT_EQ(DigestRun(run, kTiles, pieces.data()), want);
      }
    }
  }
}

}  // namespace
}  // namespace sluice::kvtransfer
