// A token is a pure function of weights, request and position: the logits of
// every sampled row are equal in every bit however the work was cut.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "tests/worker/exec/rig.h"

namespace sluice::worker {
namespace {

constexpr int kGenerated = 12;

// Weights as stored: bf16 products. Widened: f32 products and an f32 cache.
struct Variant {
  const char* name;
  const char* model;
  bool widen;
  kernels::KvDtype kv_dtype;
};

constexpr Variant kVariants[] = {
    {"llama_bf16", "llama", false, kernels::KvDtype::kBF16},
    {"qwen3_bf16", "qwen3", false, kernels::KvDtype::kBF16},
    {"qwen2_f32", "qwen2", true, kernels::KvDtype::kF32},
};

std::vector<TokenId> Prompt(int tokens, int seed) {
  std::vector<TokenId> prompt;
  uint32_t state = 12345u + static_cast<uint32_t>(seed);
  for (int i = 0; i < tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    prompt.push_back(static_cast<TokenId>((state >> 16) % 512));
  }
  return prompt;
}

SamplingParams Sampled() {
  SamplingParams params = Greedy(kGenerated);
  params.temperature = 0.9f;
  params.top_p = 0.95f;
  params.repetition_penalty = 1.1f;
  params.seed = 42;
  return params;
}

class BitEquality : public testing::TestWithParam<Variant> {
 protected:
  RigOptions Options() const {
    return {
        .model = SharedModel(TinyModelPath(GetParam().model), GetParam().widen),
        .kv_dtype = GetParam().kv_dtype,
        .isa = kernels::DetectIsa(),
        .threads = 1,
        .block_tokens = 64,
        .num_blocks = 200,
        .max_batch_seqs = 64,
        .max_batch_tokens = 2048};
  }

  Stream StreamOf(const RigOptions& options, int64_t chunk) const {
    Rig rig(options);
    return rig.Generate({.prompt = Prompt(150, 0),
                         .count = kGenerated,
                         .chunk = chunk,
                         .params = Sampled()});
  }

  // The stream everything is compared with.
  const Stream& Reference() const {
    static auto* streams = new std::map<std::string, Stream>;
    auto it = streams->find(GetParam().name);
    if (it == streams->end()) {
      it =
          streams->emplace(GetParam().name, StreamOf(Options(), 1 << 20)).first;
    }
    return it->second;
  }

  void ExpectEqual(const Stream& stream, const std::string& what) const {
    EXPECT_EQ(stream.tokens, Reference().tokens) << what;
    EXPECT_EQ(stream.digests, Reference().digests) << what;
    EXPECT_EQ(stream.digests.size(), static_cast<size_t>(kGenerated));
  }
};

TEST_P(BitEquality, ChunkSizes) {
  for (int64_t chunk : {1, 7, 16, 64, 100, 256}) {
    ExpectEqual(StreamOf(Options(), chunk), "chunk " + std::to_string(chunk));
  }
}

TEST_P(BitEquality, Threads) {
  for (int threads : {2, 3}) {
    RigOptions options = Options();
    options.threads = threads;
    ExpectEqual(StreamOf(options, 64), "threads " + std::to_string(threads));
  }
}

TEST_P(BitEquality, BlockTokens) {
  for (uint32_t block_tokens : {8u, 16u, 32u, 256u}) {
    RigOptions options = Options();
    options.block_tokens = block_tokens;
    ExpectEqual(StreamOf(options, 64),
                "block_tokens " + std::to_string(block_tokens));
  }
}

TEST_P(BitEquality, InstructionSets) {
  for (kernels::Isa isa : RigIsas()) {
    RigOptions options = Options();
    options.isa = isa;
    ExpectEqual(StreamOf(options, 64), std::string(Name(isa)));
  }
}

// Alone, or in steps shared with 31 others of every phase.
TEST_P(BitEquality, AmongOthers) {
  Rig rig(Options());
  constexpr int kOthers = 31;
  struct Other {
    std::vector<TokenId> tokens;
    uint32_t done = 0;
    BlockId first_block = 0;
  };
  std::vector<Other> others(kOthers);
  BlockId next_block = 10;
  StepPlan start;
  for (int i = 0; i < kOthers; ++i) {
    others[i].tokens = Prompt(20 + 3 * i, i + 1);
    others[i].first_block = next_block;
    next_block += 3;
    start.starts.push_back(rig.StartOf(100 + i, others[i].tokens, Sampled()));
  }
  ASSERT_TRUE(rig.runner().Run(start).ok());
  Stream stream;
  const std::vector<TokenId> prompt = Prompt(150, 0);
  uint32_t done = 0;
  for (uint64_t step = 1; stream.tokens.size() < kGenerated; ++step) {
    StepPlan plan;
    plan.step = step;
    if (done == 0) plan.starts = {rig.StartOf(1, prompt, Sampled())};
    for (int i = 0; i < kOthers; ++i) {
      Other& other = others[i];
      // Chunks of 16 until the prompt is done, then one token a step.
      const uint32_t size = static_cast<uint32_t>(other.tokens.size());
      const uint32_t take = std::min(16u, size - other.done);
      PlanRow row = {.seq = static_cast<SequenceKey>(100 + i),
                     .kv_before = other.done,
                     .tokens = {other.tokens.begin() + other.done,
                                other.tokens.begin() + other.done + take}};
      other.done += take;
      row.blocks = rig.Blocks(other.first_block, other.done);
      if (other.done == size) row.samples = {row.seq};
      plan.rows.push_back(row);
    }
    PlanRow row = {.seq = 1, .kv_before = done};
    if (done < prompt.size()) {
      const uint32_t end =
          std::min<uint32_t>(done + 48, static_cast<uint32_t>(prompt.size()));
      row.tokens.assign(prompt.begin() + done, prompt.begin() + end);
    } else {
      row.tokens = {stream.tokens.back()};
    }
    done += static_cast<uint32_t>(row.tokens.size());
    row.blocks = rig.Blocks(1, done);
    if (done >= prompt.size()) row.samples = {1};
    // Somewhere in the middle of the step.
    plan.rows.insert(plan.rows.begin() + step % kOthers, row);
    const absl::StatusOr<StepResult> result = rig.runner().Run(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (const SampledToken& token : result->sampled) {
      if (token.seq == 1) {
        stream.tokens.push_back(token.token);
        stream.digests.push_back(token.logits_sha256);
      } else {
        others[token.seq - 100].tokens.push_back(token.token);
      }
    }
  }
  ExpectEqual(stream, "among others");
}

// After preemption the tokens so far are computed again as a prompt would be.
TEST_P(BitEquality, Recomputed) {
  Rig rig(Options());
  const std::vector<TokenId> prompt = Prompt(150, 0);
  Stream stream;
  StepPlan plan;
  plan.starts = {rig.StartOf(1, prompt, Sampled())};
  ASSERT_TRUE(rig.runner().Run(plan).ok());
  std::vector<TokenId> all = prompt;
  for (int i = 0; i < kGenerated; ++i) {
    StepPlan step;
    step.step = static_cast<uint64_t>(i);
    step.rows = {{.seq = 1,
                  .kv_before = 0,
                  .tokens = all,
                  .blocks = rig.Blocks(i % 2 == 0 ? 1 : 50, all.size()),
                  .samples = {1}}};
    const absl::StatusOr<StepResult> result = rig.runner().Run(step);
    ASSERT_TRUE(result.ok()) << result.status();
    all.push_back(result->sampled[0].token);
    stream.tokens.push_back(result->sampled[0].token);
    stream.digests.push_back(result->sampled[0].logits_sha256);
  }
  ExpectEqual(stream, "recomputed");
}

INSTANTIATE_TEST_SUITE_P(Variants, BitEquality, testing::ValuesIn(kVariants),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sluice::worker
