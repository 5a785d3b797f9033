// The real model, one prompt of 1500 tokens and 64 generated: logits of every
// sampled row equal in every bit however the work is cut. One test a line.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/worker/exec/rig.h"

namespace sluice::worker {
namespace {

constexpr int kPromptTokens = 1500;
constexpr int kGenerated = 64;

RigOptions Options() {
  return {.model = SharedModel(SmolLm2Path(), false),
          .threads = 2,
          .block_tokens = 64,
          .num_blocks = 300,
          .max_batch_seqs = 64,
          .max_batch_tokens = 2048,
          .model_tokens = 2048};
}

Stream StreamOf(const RigOptions& options, int64_t chunk) {
  Rig rig(options);
  return rig.Generate({.prompt = SmolLm2Prompt(kPromptTokens, 0),
                       .count = kGenerated,
                       .chunk = chunk,
                       .params = Greedy(kGenerated)});
}

const Stream& Reference() {
  static auto* stream = new Stream(StreamOf(Options(), 2048));
  return *stream;
}

void ExpectEqual(const Stream& stream) {
  EXPECT_EQ(stream.tokens, Reference().tokens);
  EXPECT_EQ(stream.digests, Reference().digests);
  EXPECT_EQ(stream.digests.size(), static_cast<size_t>(kGenerated));
}

TEST(SmolLm2Bits, ChunksOf64) { ExpectEqual(StreamOf(Options(), 64)); }
TEST(SmolLm2Bits, ChunksOf256) { ExpectEqual(StreamOf(Options(), 256)); }
TEST(SmolLm2Bits, ChunksOf2048) { ExpectEqual(StreamOf(Options(), 2048)); }

TEST(SmolLm2Bits, OneThread) {
  RigOptions options = Options();
  options.threads = 1;
  ExpectEqual(StreamOf(options, 2048));
}

TEST(SmolLm2Bits, BlocksOf16Tokens) {
  RigOptions options = Options();
  options.block_tokens = 16;
  ExpectEqual(StreamOf(options, 2048));
}

TEST(SmolLm2Bits, Avx2) {
  RigOptions options = Options();
  options.isa = kernels::Isa::kAvx2;
  if (options.isa > kernels::DetectIsa()) GTEST_SKIP() << "no AVX2";
  ExpectEqual(StreamOf(options, 2048));
}

// Some hundred times slower than the others: minutes.
TEST(SmolLm2Bits, Portable) {
  RigOptions options = Options();
  options.isa = kernels::Isa::kPortable;
  ExpectEqual(StreamOf(options, 2048));
}

// 31 other sequences decode in every step while the prompt is prefilled in
// chunks and then decodes with them.
TEST(SmolLm2Bits, Among31Others) {
  constexpr int kOthers = 31;
  Rig rig(Options());
  std::vector<std::vector<TokenId>> others;
  std::vector<BlockId> first_block;
  BlockId next_block = 40;
  StepPlan plan;
  for (int i = 0; i < kOthers; ++i) {
    others.push_back(SmolLm2Prompt(5 + 3 * i, static_cast<uint32_t>(i + 1)));
    first_block.push_back(next_block);
    next_block += 6;
    const SequenceKey key = static_cast<SequenceKey>(100 + i);
    plan.starts.push_back(rig.StartOf(key, others[i], Greedy(200)));
    plan.rows.push_back({.seq = key,
                         .tokens = others[i],
                         .blocks = rig.Blocks(first_block[i], others[i].size()),
                         .samples = {key}});
  }
  const std::vector<TokenId> prompt = SmolLm2Prompt(kPromptTokens, 0);
  plan.starts.push_back(rig.StartOf(1, prompt, Greedy(kGenerated)));
  size_t done = 0;
  Stream stream;
  ASSERT_LE(next_block, 300u);
  while (true) {
    const absl::StatusOr<StepResult> result = rig.runner().Run(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (const SampledToken& token : result->sampled) {
      if (token.seq == 1) {
        stream.tokens.push_back(token.token);
        stream.digests.push_back(token.logits_sha256);
      } else {
        others[token.seq - 100].push_back(token.token);
      }
    }
    if (stream.tokens.size() == kGenerated) break;
    plan = StepPlan();
    for (int i = 0; i < kOthers; ++i) {
      const SequenceKey key = static_cast<SequenceKey>(100 + i);
      plan.rows.push_back(
          {.seq = key,
           .kv_before = static_cast<uint32_t>(others[i].size() - 1),
           .tokens = {others[i].back()},
           .blocks = rig.Blocks(first_block[i], others[i].size()),
           .samples = {key}});
    }
    PlanRow row = {.seq = 1, .kv_before = static_cast<uint32_t>(done)};
    if (done < prompt.size()) {
      const size_t end = std::min(done + 192, prompt.size());
      row.tokens.assign(prompt.begin() + done, prompt.begin() + end);
    } else {
      row.tokens = {stream.tokens.back()};
    }
    done += row.tokens.size();
    row.blocks = rig.Blocks(1, static_cast<int64_t>(done));
    if (done >= prompt.size()) row.samples = {1};
    plan.rows.insert(plan.rows.begin() + 7, row);
  }
  ExpectEqual(stream);
}

}  // namespace
}  // namespace sluice::worker
