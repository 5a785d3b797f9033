// Plans of every split against a naive element-wise copy.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kvtransfer/piece_kernels.h"
#include "kvtransfer/transfer_plan.h"
#include "tests/kvtransfer/testing/sharded_cache.h"

namespace sluice::kvtransfer {
namespace {

struct Case {
  CacheSplit from;
  CacheSplit to;
  uint32_t skip = 0;
  uint32_t num_tokens = 0;
};

std::string Describe(const CacheSplit& s) {
  return std::to_string(s.ranks) + " ranks x " + std::to_string(s.stages) +
         " stages, blocks of " + std::to_string(s.block_tokens) + " " +
         std::string(InnerOrderName(s.order));
}

bool CanTile(const CacheSplit& from, const CacheSplit& to) {
  const bool tiles =
      from.order == InnerOrder::kCpuTiles || to.order == InnerOrder::kCpuTiles;
  return !tiles || std::min(from.block_tokens, to.block_tokens) >= 16;
}

// Moves every rectangle of `planned` as a destination does, and checks that
// both sides see the same digests.
class Mover {
 public:
  Mover(ShardedCache& from, ShardedCache& to)
      : from_(from), to_(to), writes_(to.bytes().size(), 0) {}

  const std::vector<uint8_t>& writes() const { return writes_; }

  void Move(const StreamPlan& stream, const Rectangle& rectangle) {
    RectanglePlan plan(stream, rectangle);
    std::vector<uint64_t> placed(plan.num_spans(), 0);
    std::vector<uint64_t> read(plan.num_spans(), 0);
    const std::vector<Copy> copies =
        plan.Merge({from_.blocks()}, {to_.blocks()});
    uint32_t next_run = 0;
    for (const Copy& copy : copies) {
      ASSERT_EQ(copy.first_run, next_run);  // in order, none left out
      next_run += copy.num_runs;
      ASSERT_LE(copy.source_offset + copy.size_bytes, from_.bytes().size());
      MoveCopy(plan, copy, placed, read);
    }
    EXPECT_EQ(next_run, plan.num_runs());
    EXPECT_EQ(placed, read);
  }

 private:
  void MoveCopy(const RectanglePlan& plan, const Copy& copy,
                std::vector<uint64_t>& placed, std::vector<uint64_t>& read) {
    const RectanglePlan::Piece piece = plan.PieceOf(copy);
    const std::byte* source = from_.bytes().data() + copy.source_offset;
    if (!piece.runs.empty()) {
      const PieceArgs args{.from = source,
                           .to = to_.bytes().data() + copy.target_offset,
                           .size_bytes = copy.size_bytes,
                           .runs = piece.runs,
                           .token = piece.token,
                           .next = source};
      placed[piece.span] += BestPieceKernels().copy_and_digest(args);
      read[piece.span] += BestPieceKernels().digest(args);
      Count(copy.target_offset, copy.size_bytes);
      return;
    }
    const StreamGroup& group = plan.stream().groups[copy.group_index];
    const InnerOrder from_order = group.source.layout.inner_order;
    const InnerOrder to_order = group.target.layout.inner_order;
    for (uint32_t i = 0; i < copy.num_runs; ++i) {
      const RectanglePlan::Run run = plan.run(copy.first_run + i);
      const uint64_t at = plan.SourceOffset(run, {from_.blocks()});
      const uint64_t target = plan.TargetOffset(run, {to_.blocks()});
      placed[plan.SpanOf(run)] +=
          CopyRun(run.shape, from_order, from_.bytes().data() + at, to_order,
                  to_.bytes().data() + target);
      read[plan.SpanOf(run)] +=
          DigestRun(run.shape, from_order, from_.bytes().data() + at);
      Count(target, run.shape.BytesIn(to_order));
    }
  }

  void Count(uint64_t at, uint64_t size) {
    ASSERT_LE(at + size, writes_.size());
    for (uint64_t i = 0; i < size; ++i) ++writes_[at + i];
  }

  ShardedCache& from_;
  ShardedCache& to_;
  std::vector<uint8_t> writes_;
};

void CheckCase(const Case& c, ShardedCache& from, ShardedCache& to) {
  SCOPED_TRACE(testing::Message()
               << Describe(c.from) << " -> " << Describe(c.to) << " tokens ["
               << c.skip << ", " << c.num_tokens << ")");
  to.Reset();
  Mover mover(from, to);
  const auto plan = PlanTransfer(from.side(), to.side(), c.skip, c.num_tokens);
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (const PlannedStream& planned : *plan) {
    const StreamPlan& s = planned.stream;
    mover.Move(s, {c.skip, c.num_tokens, s.l0, s.l1});
  }
  StoreFence();
  EXPECT_EQ(to.CountWrong(c.skip, mover.writes()), 0u);
  EXPECT_EQ(to.CountStray(c.skip), 0u);
}

// All targets of one source.
size_t CheckTargets(const CacheModel& model, const CacheSplit& from,
                    const std::vector<CacheSplit>& targets, uint32_t skip,
                    uint32_t num_tokens) {
  ShardedCache source(model, from, num_tokens, 1);
  source.Fill();
  size_t cases = 0;
  for (const CacheSplit& to : targets) {
    if (!CanTile(from, to)) continue;
    ShardedCache target(model, to, num_tokens, 2);
    CheckCase({from, to, skip, num_tokens}, source, target);
    ++cases;
    if (testing::Test::HasFailure()) return cases;
  }
  return cases;
}

std::vector<CacheSplit> Splits(const std::vector<int>& ranks,
                               const std::vector<int>& stages) {
  std::vector<CacheSplit> splits;
  for (const int r : ranks) {
    for (const int s : stages) {
      for (const int block_tokens : {8, 16, 64}) {
        splits.push_back({r, s, block_tokens, InnerOrder::kCanonical});
        if (block_tokens < 16) continue;
        splits.push_back({r, s, block_tokens, InnerOrder::kCpuTiles});
      }
    }
  }
  return splits;
}

TEST(Resharding, EveryRankCountHeadCountBlockSizeAndOrder) {
  size_t cases = 0;
  for (const int heads : {1, 2, 4, 6, 8}) {
    const CacheModel model = KeyValueModel(heads, 4, 1);
    const std::vector<CacheSplit> splits =
        Splits({1, 2, 3, 4, 5, 6, 7, 8}, {1});
    for (const CacheSplit& from : splits) {
      cases += CheckTargets(model, from, splits, 64, 93);
      if (HasFailure()) return;
    }
  }
  std::printf("plan cases: %zu\n", cases);
}

TEST(Resharding, LayerSplits) {
  size_t cases = 0;
  for (const int heads : {1, 6}) {
    const CacheModel model = KeyValueModel(heads, 4, 5);
    const std::vector<CacheSplit> splits = Splits({1, 3, 4}, {1, 2, 3, 5});
    for (const CacheSplit& from : splits) {
      cases += CheckTargets(model, from, splits, 0, 21);
      if (HasFailure()) return;
    }
  }
  std::printf("plan cases: %zu\n", cases);
}

// Whole tiles of the fast loops, every block size, every group.
TEST(Resharding, AllGroupsAtRandom) {
  std::mt19937 random(11);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  const auto split = [&](int layers) {
    return CacheSplit{
        1 + pick(8), 1 + pick(layers), 8 << pick(6),
        pick(2) == 0 ? InnerOrder::kCanonical : InnerOrder::kCpuTiles};
  };
  size_t cases = 0;
  while (cases < 400) {
    const int layers = 1 + pick(3);
    const int head_dims[] = {2, 4, 12, 16, 32};
    const CacheModel model =
        AllGroupsModel(1 + pick(8), head_dims[pick(5)], layers);
    const CacheSplit from = split(layers), to = split(layers);
    if (from.order == InnerOrder::kCpuTiles && from.block_tokens < 16) continue;
    if (to.order == InnerOrder::kCpuTiles && to.block_tokens < 16) continue;
    if (!CanTile(from, to)) continue;
    const uint32_t skip =
        static_cast<uint32_t>(pick(3) * std::max(16, to.block_tokens));
    const uint32_t tokens = skip + 1 + static_cast<uint32_t>(pick(150));
    cases += CheckTargets(model, from, {to}, skip, tokens);
    if (HasFailure()) return;
  }
  std::printf("plan cases: %zu\n", cases);
}

// Cut into rectangles, in any order: the same cache.
TEST(Resharding, RectanglesAddUp) {
  const CacheModel model = AllGroupsModel(6, 16, 3);
  const Case c{{2, 2, 16, InnerOrder::kCpuTiles},
               {3, 1, 32, InnerOrder::kCpuTiles},
               32,
               150};
  ShardedCache from(model, c.from, c.num_tokens, 1);
  ShardedCache to(model, c.to, c.num_tokens, 2);
  from.Fill();
  Mover mover(from, to);
  const auto streams = PlanStreams(from.manifest(), 0, to.manifest(), 0);
  ASSERT_TRUE(streams.ok());
  for (const StreamPlan& s : *streams) {
    for (const uint32_t t0 : {96u, 32u, 64u, 128u}) {
      for (uint32_t l = s.l0; l < s.l1; ++l) {
        mover.Move(s, {t0, std::min(t0 + 32, c.num_tokens), l, l + 1});
      }
    }
  }
  StoreFence();
  EXPECT_EQ(to.CountWrong(c.skip, mover.writes()), 0u);
  EXPECT_EQ(to.CountStray(c.skip), 0u);
}

// --- the loops themselves ----------------------------------------------------

TEST(PieceKernels, LevelsAgreeWithRunsOneByOne) {
  std::mt19937_64 random(5);
  for (const RunOrder order :
       {RunOrder::kRows, RunOrder::kKeyTiles, RunOrder::kValueTiles}) {
    for (const uint32_t head_dim : {16u, 64u, 80u}) {
      for (uint32_t tokens = 1; tokens <= 33; ++tokens) {
        const bool rows = order == RunOrder::kRows;
        const InnerOrder inner =
            rows ? InnerOrder::kCanonical : InnerOrder::kCpuTiles;
        const uint64_t slot = uint64_t{48} * head_dim * 2;  // 3 tiles
        std::vector<std::byte> from(2 * slot);
        for (std::byte& b : from) b = static_cast<std::byte>(random());
        std::vector<PieceRun> runs;
        uint64_t want = 0;
        for (uint32_t i = 0; i < 2; ++i) {
          const RunShape shape{
              .group_id = 3,
              .index = {.layer = 1,
                        .comps = 2,
                        .comp = order == RunOrder::kValueTiles ? 1u : 0u,
                        .heads_total = 7,
                        .head = i,
                        .token = 96,
                        .words = head_dim / 4},
              .head_dim = head_dim,
              .tokens = tokens};
          WordIndex first = shape.index;
          first.token = 0;
          runs.push_back(
              {order, head_dim / 4, tokens, slot, DigestKey(first.Value(), 3)});
          want += DigestRun(shape, inner, from.data() + i * slot);
        }
        for (int l = 0; l <= static_cast<int>(BestDigestLevel()); ++l) {
          const PieceKernels& k = PieceKernelsOf(static_cast<DigestLevel>(l));
          for (const size_t shift : {0, 8}) {
            std::vector<std::byte> room(2 * slot + 200, std::byte{0xAA});
            std::byte* to =
                room.data() + shift +
                (64 - reinterpret_cast<uintptr_t>(room.data()) % 64);
            const PieceArgs args{.from = from.data(),
                                 .to = to,
                                 .size_bytes = 2 * slot,
                                 .runs = runs,
                                 .token = 96,
                                 .next = shift == 0 ? nullptr : from.data()};
            EXPECT_EQ(k.digest(args), want) << l;
            EXPECT_EQ(k.copy_and_digest(args), want) << l;
            StoreFence();
            EXPECT_EQ(std::memcmp(to, from.data(), 2 * slot), 0);
            EXPECT_EQ(to[-1], std::byte{0xAA});
            EXPECT_EQ(to[2 * slot], std::byte{0xAA});
            std::memset(to, 0, 2 * slot);
            k.copy(args);
            StoreFence();
            EXPECT_EQ(std::memcmp(to, from.data(), 2 * slot), 0);
          }
        }
      }
    }
  }
}

// Pieces of one pattern at scattered places, as a pull moves them.
struct Group {
  std::vector<PieceRun> runs;
  std::vector<std::byte> from;
  std::vector<std::byte> room;
  std::vector<PieceArgs> pieces;

  Group(RunOrder order, uint32_t head_dim, uint32_t tokens, uint64_t slot) {
    for (uint32_t i = 0; i < 3; ++i) {
      runs.push_back({order, head_dim / 4, tokens, slot, 1000 + i});
    }
  }
  // `shift` bytes from a line on each side.
  void Place(size_t count, uint64_t shift, std::mt19937_64& random) {
    const uint64_t size = 3 * runs[0].size_bytes;
    const uint64_t step = (size + shift + 2 * 64) / 64 * 64;
    from.resize(count * step + 64);
    for (std::byte& b : from) b = static_cast<std::byte>(random());
    room.assign(from.size() + 64, std::byte{0xAA});
    std::byte* to = room.data() + 64 +
                    (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
    pieces.clear();
    for (size_t i = 0; i < count; ++i) {
      pieces.push_back({.from = from.data() + (count - 1 - i) * step + shift,
                        .to = to + i * step + (i % 2 == 0 ? shift : 0),
                        .size_bytes = size,
                        .runs = runs,
                        .token = 16 * (i * 5 % 7)});
    }
  }
  // Wrong bytes, and bytes outside every piece that were touched.
  size_t CountWrong() const {
    std::vector<std::byte> want(room.size(), std::byte{0xAA});
    for (const PieceArgs& piece : pieces) {
      std::memcpy(want.data() + (piece.to - room.data()), piece.from,
                  piece.size_bytes);
    }
    size_t wrong = 0;
    for (size_t i = 0; i < want.size(); ++i) wrong += want[i] != room[i];
    return wrong;
  }
};

TEST(PieceKernels, GroupsAgreeWithPieces) {
  std::mt19937_64 random(11);
  for (const RunOrder order :
       {RunOrder::kRows, RunOrder::kKeyTiles, RunOrder::kValueTiles}) {
    for (const uint32_t head_dim : {16u, 48u, 64u, 80u, 128u}) {
      for (const uint32_t tokens : {1u, 8u, 15u, 16u, 31u, 32u}) {
        for (const uint64_t pad : {0, 8}) {  // rows may have any size
          const bool rows = order == RunOrder::kRows;
          const uint64_t row = uint64_t{head_dim} * 2;
          const uint64_t slot =
              rows ? tokens * row + pad : (tokens + 15) / 16 * 16 * row;
          Group group(order, head_dim, tokens, slot);
          for (size_t count = 1; count <= kGroupPieces; ++count) {
            group.Place(count, pad, random);
            for (int l = 0; l <= static_cast<int>(BestDigestLevel()); ++l) {
              const PieceKernels& k =
                  PieceKernelsOf(static_cast<DigestLevel>(l));
              std::vector<uint64_t> sums(kGroupPieces, 1);
              k.copy_and_digest_group(group.pieces, absl::MakeSpan(sums));
              StoreFence();
              for (size_t i = 0; i < count; ++i) {
                ASSERT_EQ(sums[i], k.digest(group.pieces[i])) << l << ' ' << i;
              }
              ASSERT_EQ(group.CountWrong(), 0u) << l << ' ' << count;
              std::fill(group.room.begin(), group.room.end(), std::byte{0xAA});
              k.copy_group(group.pieces);
              StoreFence();
              ASSERT_EQ(group.CountWrong(), 0u) << l << ' ' << count;
            }
          }
        }
      }
    }
  }
}

// Other sizes, or other runs of the same size: one after the other.
TEST(PieceKernels, GroupsOfDifferentPieces) {
  std::mt19937_64 random(12);
  Group group(RunOrder::kRows, 64, 16, 2048);
  const std::vector<PieceRun> other = {
      {RunOrder::kKeyTiles, 16, 48, 3 * 2048, 77}};
  for (const bool shorter : {false, true}) {
    group.Place(5, 0, random);
    group.pieces[3].runs = other;
    if (shorter) {
      group.pieces[1].size_bytes = 2048;
      group.pieces[1].runs = group.pieces[1].runs.first(1);
    }
    std::vector<uint64_t> sums(5);
    BestPieceKernels().copy_and_digest_group(group.pieces,
                                             absl::MakeSpan(sums));
    StoreFence();
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(sums[i], BestPieceKernels().digest(group.pieces[i])) << i;
    }
    EXPECT_EQ(group.CountWrong(), 0u);
    std::fill(group.room.begin(), group.room.end(), std::byte{0xAA});
    BestPieceKernels().copy_group(group.pieces);
    StoreFence();
    EXPECT_EQ(group.CountWrong(), 0u);
  }
}

TEST(PieceKernels, SeeEveryFlip) {
  std::mt19937_64 random(9);
  for (const RunOrder order :
       {RunOrder::kRows, RunOrder::kKeyTiles, RunOrder::kValueTiles}) {
    std::vector<uint64_t> words(16 * 16);
    for (uint64_t& w : words) w = random();
    const PieceRun run{order, 16, 16, words.size() * 8, 77};
    const PieceArgs args{
        .from = reinterpret_cast<const std::byte*>(words.data()),
        .size_bytes = words.size() * 8,
        .runs = absl::MakeSpan(&run, 1)};
    const uint64_t whole = BestPieceKernels().digest(args);
    for (int trial = 0; trial < 40'000; ++trial) {
      const uint64_t bit = random() % (words.size() * 64);
      words[bit / 64] ^= uint64_t{1} << bit % 64;
      ASSERT_NE(BestPieceKernels().digest(args), whole);
      words[bit / 64] ^= uint64_t{1} << bit % 64;
    }
  }
}

}  // namespace
}  // namespace sluice::kvtransfer
