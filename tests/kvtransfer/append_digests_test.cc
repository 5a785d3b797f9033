#include "kvtransfer/append_digests.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kvtransfer/run_copier.h"
#include "tests/kvtransfer/testing/loopback_pair.h"
#include "tests/kvtransfer/testing/sharded_cache.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kTokens = 75;

// Appends tokens [t0, t1) of every rank, group and layer, cut at blocks.
void AppendAll(ShardedCache& cache, uint32_t t0, uint32_t t1,
               AppendDigests& digests) {
  const LayoutManifest& manifest = cache.manifest();
  for (const RankManifest& rank : manifest.replicas[0].ranks) {
    for (uint32_t g = 0; g < rank.groups.size(); ++g) {
      for (uint32_t l = 0; l < rank.num_layers; ++l) {
        for (uint32_t t = t0; t < t1;) {
          const uint32_t end = std::min(
              t1, (t / manifest.block_tokens + 1) * manifest.block_tokens);
          digests.Append({.rank = rank.rank,
                          .group_index = g,
                          .layer = rank.first_layer + l,
                          .block = cache.blocks()[t / manifest.block_tokens],
                          .first_token = t,
                          .num_tokens = end - t},
                         cache.bytes().data());
          t = end;
        }
      }
    }
  }
}

// Every block of every group of every stream against digests of its runs.
void CheckSums(const AppendDigests& digests, ShardedCache& from,
               const LayoutManifest& to) {
  const auto streams = PlanStreams(from.manifest(), 0, to, 0);
  ASSERT_TRUE(streams.ok());
  const uint32_t block_tokens = from.manifest().block_tokens;
  for (const StreamPlan& stream : *streams) {
    for (uint32_t t = 0; t < kTokens; t += block_tokens) {
      const uint32_t t1 = std::min(t + block_tokens, kTokens);
      const RectanglePlan plan(stream, {t, t1, stream.l0, stream.l1});
      uint64_t want = 0;
      for (uint32_t i = 0; i < plan.num_runs(); ++i) {
        const RectanglePlan::Run run = plan.run(i);
        want += DigestRun(
            run.shape, stream.groups[run.group_index].source.layout.inner_order,
            from.bytes().data() + plan.SourceOffset(run, {from.blocks()}));
      }
      uint64_t sum = 0;
      for (const StreamGroup& group : stream.groups) {
        ASSERT_TRUE(digests.Add({.rank = stream.source_rank,
                                 .group = &group,
                                 .block = from.blocks()[t / block_tokens],
                                 .num_tokens = t1 - t,
                                 .l0 = stream.l0,
                                 .l1 = stream.l1},
                                sum));
      }
      EXPECT_EQ(sum, want);
    }
  }
}

TEST(AppendDigests, EqualTheDigestsOfRunsHoweverTheKvIsCut) {
  for (const InnerOrder order :
       {InnerOrder::kCanonical, InnerOrder::kCpuTiles}) {
    for (const int head_dim : {4, 6, 16}) {
      const CacheModel model = AllGroupsModel(6, head_dim, 3);
      ShardedCache from(model, {2, 2, 32, order}, kTokens, 1);
      ShardedCache to(model, {3, 1, 32, order}, kTokens, 1);
      from.Fill();
      for (const uint32_t chunk : {1u, 7u, 16u, kTokens}) {
        AppendDigests digests(from.manifest(), 0);
        for (uint32_t t = 0; t < kTokens; t += chunk) {
          AppendAll(from, t, std::min(t + chunk, kTokens), digests);
        }
        CheckSums(digests, from, to.manifest());
      }
    }
  }
}

TEST(AppendDigests, KnowWhatTheyDoNotKnow) {
  const CacheModel model = KeyValueModel(2, 16, 1);
  ShardedCache cache(model, {1, 1, 16, InnerOrder::kCanonical}, 32, 1);
  cache.Fill();
  AppendDigests digests(cache.manifest(), 0);
  const auto streams = PlanStreams(cache.manifest(), 0, cache.manifest(), 0);
  const uint32_t block = cache.blocks()[0];
  const auto append = [&](uint32_t first, uint32_t count) {
    digests.Append({.block = block, .first_token = first, .num_tokens = count},
                   cache.bytes().data());
  };
  const auto knows = [&](uint32_t tokens) {
    uint64_t sum = 0;
    return digests.Add({.group = &(*streams)[0].groups[0],
                        .block = block,
                        .num_tokens = tokens,
                        .l1 = 1},
                       sum);
  };
  EXPECT_FALSE(knows(16));
  append(0, 10);
  EXPECT_TRUE(knows(10));
  EXPECT_FALSE(knows(16));  // not there yet
  EXPECT_FALSE(knows(4));   // of a part nothing is kept
  append(10, 6);
  EXPECT_TRUE(knows(16));
  append(0, 4);  // the block is used anew
  EXPECT_TRUE(knows(4));
  append(8, 8);  // a gap
  EXPECT_FALSE(knows(16));
  EXPECT_FALSE(knows(12));
  append(12, 4);  // stays unknown
  EXPECT_FALSE(knows(16));
  append(0, 16);
  EXPECT_TRUE(knows(16));
  digests.Forget(block);
  EXPECT_FALSE(knows(16));
}

// A reader beside the writer gets the sum of what it asked for, or nothing.
TEST(AppendDigests, AreNeverSeenHalfAdded) {
  const CacheModel model = KeyValueModel(4, 16, 1);
  ShardedCache cache(model, {1, 1, 16, InnerOrder::kCanonical}, 16, 1);
  cache.Fill();
  AppendDigests digests(cache.manifest(), 0);
  const auto streams = PlanStreams(cache.manifest(), 0, cache.manifest(), 0);
  const uint32_t block = cache.blocks()[0];
  const auto append = [&](uint32_t first, uint32_t count) {
    digests.Append({.block = block, .first_token = first, .num_tokens = count},
                   cache.bytes().data());
  };
  const AppendDigests::Query query{.group = &(*streams)[0].groups[0],
                                   .block = block,
                                   .num_tokens = 8,
                                   .l1 = 1};
  append(0, 8);
  uint64_t want = 0;
  ASSERT_TRUE(digests.Add(query, want));
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 20000; ++i) {
      append(0, 8);
      append(8, 8);
    }
    done = true;
  });
  int known = 0;
  int wrong = 0;
  while (!done) {
    uint64_t sum = 0;
    if (!digests.Add(query, sum)) continue;
    ++known;
    wrong += sum != want;
  }
  writer.join();
  EXPECT_EQ(wrong, 0) << "of " << known;
}

// Appends all of a transfer's tokens to `digests` of one side.
void AppendBlocks(const KvWorker& worker, const std::vector<uint32_t>& blocks,
                  uint32_t num_tokens, AppendDigests& digests) {
  const RankManifest& rank = worker.manifest.replicas[0].ranks[0];
  const uint32_t block_tokens = worker.manifest.block_tokens;
  for (uint32_t layer = 0; layer < rank.num_layers; ++layer) {
    for (uint32_t t = 0; t < num_tokens; t += block_tokens) {
      digests.Append({.layer = layer,
                      .block = blocks[t / block_tokens],
                      .first_token = t,
                      .num_tokens = std::min(block_tokens, num_tokens - t)},
                     worker.memory->base());
    }
  }
}

// A transfer whose source kept digests, or did not; a bit flips at rest.
TransferResult Transfer(TransferMode mode, bool kept, bool flip) {
  LoopbackPairOptions options;
  options.mode = mode;
  options.append_digests = true;
  LoopbackPair pair(options);
  const LoopbackPair::Args args;
  const Ticket ticket = pair.StartReceive(args);
  if (kept) {
    AppendBlocks(pair.source, pair.source_blocks, args.num_tokens,
                 *pair.append_digests);
  }
  if (flip) pair.source.block(pair.source_blocks[1])[5] ^= std::byte{4};
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  EXPECT_EQ(pair.received.ends.size(), 1u);
  EXPECT_TRUE(flip || pair.TargetHolds(args));
  const auto stats = pair.source_engine->Stats();
  EXPECT_EQ(stats->kept_digests > 0, kept);
  EXPECT_EQ(stats->read_digests > 0, !kept);
  return pair.received.ends.at(0);
}

TEST(AppendDigests, ATransferSendsThemAndProvesMemoryAtRest) {
  for (const TransferMode mode : {TransferMode::kPull, TransferMode::kStream}) {
    EXPECT_EQ(Transfer(mode, true, false).state, TransferState::kCompleted);
    EXPECT_EQ(Transfer(mode, false, false).state, TransferState::kCompleted);
    EXPECT_EQ(Transfer(mode, true, true).status.code(),
              absl::StatusCode::kDataLoss);
    // Digests made for the announcement cannot know.
    EXPECT_EQ(Transfer(mode, false, true).state, TransferState::kCompleted);
  }
}

// Digests of what a block held before are none of what it receives.
TEST(AppendDigests, OfBlocksThatAreReceivedIntoAreForgotten) {
  for (const uint32_t skip : {0u, 16u}) {
    LoopbackPairOptions options;
    options.append_digests = true;
    LoopbackPair pair(options);
    const LoopbackPair::Args args{.skip = skip};
    const Ticket ticket = pair.StartReceive(args);
    AppendBlocks(pair.target, pair.target_blocks, args.num_tokens,
                 *pair.target_digests);
    const auto streams =
        PlanStreams(pair.target.manifest, 0, pair.target.manifest, 0);
    const auto knows = [&](uint32_t block) {
      uint64_t sum = 0;
      return pair.target_digests->Add({.group = &(*streams)[0].groups[0],
                                       .block = block,
                                       .num_tokens = 16,
                                       .l1 = 1},
                                      sum);
    };
    EXPECT_TRUE(knows(pair.target_blocks[0]));
    EXPECT_TRUE(knows(pair.target_blocks[1]));
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    EXPECT_TRUE(pair.TargetHolds(args));
    EXPECT_EQ(knows(pair.target_blocks[0]), skip > 0) << "skipped blocks stay";
    EXPECT_FALSE(knows(pair.target_blocks[1]));
  }
}

}  // namespace
}  // namespace sluice::kvtransfer
