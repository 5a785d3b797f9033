// The real model in real processes: one prompt of 1500 tokens and 64 generated
// have the same logits in every bit (by the digests of the step logs) however
// the cluster came to them. One test a line.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/integration/local_cluster.h"
#include "tests/worker/exec/rig.h"
#include "worker/exec/step_log.h"

namespace sluice {
namespace {

constexpr int kPromptTokens = 1500;
constexpr int kGenerated = 64;

v1::GenerateRequest Request(const std::vector<worker::TokenId>& prompt,
                            uint32_t generated) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(prompt.begin(), prompt.end());
  request.set_include_timing(true);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_max_tokens(generated);
  sampling.set_ignore_eos(true);
  return request;
}

// What one worker computed of one sequence.
struct SequenceRun {
  // Digest of the logits that decided each position (prompt tokens first).
  std::map<uint32_t, std::string> digests;
  int restarts = 0;  // times the cache was computed again from further back
};

// The sequences of a step log that start with `prompt`, in order of start.
std::vector<SequenceRun> RunsOf(const std::string& step_log,
                                const std::vector<worker::TokenId>& prompt) {
  const auto records = worker::ReadStepLog(step_log);
  SLUICE_CHECK(records.ok());
  std::vector<SequenceRun> runs;
  std::map<worker::SequenceKey, size_t> run_of;
  std::map<worker::SequenceKey, uint32_t> computed;
  for (const worker::StepLogRecord& record : *records) {
    for (const worker::SequenceStart& start : record.plan.starts) {
      run_of.erase(start.seq);
      if (start.tokens.size() < prompt.size() ||
          !std::equal(prompt.begin(), prompt.end(), start.tokens.begin())) {
        continue;
      }
      run_of[start.seq] = runs.size();
      computed[start.seq] = 0;
      runs.emplace_back();
    }
    std::map<worker::SequenceKey, uint32_t> decided;
    for (const worker::PlanRow& row : record.plan.rows) {
      const uint32_t end =
          row.kv_before + static_cast<uint32_t>(row.tokens.size());
      for (worker::SequenceKey seq : row.samples) decided[seq] = end;
      const auto found = run_of.find(row.seq);
      if (found == run_of.end()) continue;
      if (row.kv_before < computed[row.seq]) ++runs[found->second].restarts;
      computed[row.seq] = end;
    }
    for (const worker::SampledToken& token : record.result.sampled) {
      const auto found = run_of.find(token.seq);
      if (found == run_of.end()) continue;
      runs[found->second].digests[decided.at(token.seq)] = token.logits_sha256;
    }
  }
  return runs;
}

std::unique_ptr<LocalCluster> StartCluster(
    std::vector<WorkerSpec> workers, std::vector<std::string> worker_flags) {
  worker_flags.push_back("--kv.memory_bytes=268435456");
  auto cluster =
      LocalCluster::Start({.model = worker::SmolLm2Path(),
                           .workers = std::move(workers),
                           .worker_flags = std::move(worker_flags),
                           .router_flags = {"--route.local_prefill_fallback="
                                            "false"}});
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return cluster.ok() ? *std::move(cluster) : nullptr;
}

ClusterAnswer Generate(LocalCluster& cluster,
                       const v1::GenerateRequest& request) {
  const auto answer = cluster.Generate(request);
  EXPECT_TRUE(answer.ok()) << answer.status();
  return answer.ok() ? *answer : ClusterAnswer();
}

struct Reference {
  std::vector<uint32_t> tokens;
  std::map<uint32_t, std::string> digests;
};

class ClusterBits : public testing::Test {
 protected:
  // A mixed worker alone with a cold cache decides what is right; the same
  // cluster then answers the prompt from its prefix cache.
  static void SetUpTestSuite() {
    mixed_ =
        StartCluster({{.instance = "m0", .role = "mixed", .flags = {}}}, {})
            .release();
    ASSERT_NE(mixed_, nullptr);
    const std::vector<worker::TokenId> prompt =
        worker::SmolLm2Prompt(kPromptTokens, 0);
    const ClusterAnswer answer = Generate(*mixed_, Request(prompt, kGenerated));
    EXPECT_EQ(answer.end.cached_tokens(), 0u);
    const std::vector<SequenceRun> runs =
        RunsOf(mixed_->StepLogOf("m0"), prompt);
    ASSERT_EQ(runs.size(), 1u);
    reference_ = new Reference{answer.tokens, runs[0].digests};
    ASSERT_EQ(reference_->tokens.size(), static_cast<size_t>(kGenerated));
    ASSERT_EQ(reference_->digests.size(), static_cast<size_t>(kGenerated));
    EXPECT_EQ(reference_->digests.begin()->first,
              static_cast<uint32_t>(kPromptTokens));
    EXPECT_EQ(reference_->digests.begin()->second.size(), 32u);
  }

  static void TearDownTestSuite() {
    EXPECT_TRUE(mixed_ == nullptr || mixed_->Stop().ok());
    delete mixed_;
    delete reference_;
  }

  // The first token comes from the prefill worker, the others from the decode
  // worker; together they are the reference.
  void ExpectSplitEqual(const std::string& transport, int prefill_block,
                        int decode_block) {
    const auto cluster = StartCluster(
        {{.instance = "p0",
          .role = "prefill",
          .flags = {absl::StrCat("--kv.block_tokens=", prefill_block)}},
         {.instance = "d0",
          .role = "decode",
          .flags = {absl::StrCat("--kv.block_tokens=", decode_block)}}},
        {absl::StrCat("--kv.transport=", transport)});
    ASSERT_NE(cluster, nullptr);
    const std::vector<worker::TokenId> prompt =
        worker::SmolLm2Prompt(kPromptTokens, 0);
    v1::GenerateRequest request = Request(prompt, kGenerated);
    request.mutable_routing()->set_placement(v1::RoutingHints::DISAGGREGATED);
    const ClusterAnswer answer = Generate(*cluster, request);
    EXPECT_EQ(answer.tokens, reference_->tokens);
    EXPECT_EQ(answer.end.timing().transfer_transport(), transport);
    EXPECT_GT(answer.end.timing().transfer_bytes(), 0u);

    const auto prefill = RunsOf(cluster->StepLogOf("p0"), prompt);
    const auto decode = RunsOf(cluster->StepLogOf("d0"), prompt);
    ASSERT_EQ(prefill.size(), 1u);
    ASSERT_EQ(decode.size(), 1u);
    EXPECT_EQ(prefill[0].digests.size(), 1u);
    EXPECT_EQ(decode[0].digests.size(), static_cast<size_t>(kGenerated - 1));
    std::map<uint32_t, std::string> joined = prefill[0].digests;
    joined.insert(decode[0].digests.begin(), decode[0].digests.end());
    EXPECT_EQ(joined, reference_->digests);
    EXPECT_TRUE(cluster->Stop().ok());
  }

  static LocalCluster* mixed_;
  static Reference* reference_;
};

LocalCluster* ClusterBits::mixed_ = nullptr;
Reference* ClusterBits::reference_ = nullptr;

TEST_F(ClusterBits, PrefixCacheHit) {
  const std::vector<worker::TokenId> prompt =
      worker::SmolLm2Prompt(kPromptTokens, 0);
  const ClusterAnswer answer = Generate(*mixed_, Request(prompt, kGenerated));
  EXPECT_GE(answer.end.cached_tokens(), 1400u);
  EXPECT_EQ(answer.tokens, reference_->tokens);
  const std::vector<SequenceRun> runs = RunsOf(mixed_->StepLogOf("m0"), prompt);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[1].digests, reference_->digests);
}

TEST_F(ClusterBits, DisaggregatedOverShm) { ExpectSplitEqual("shm", 64, 64); }
TEST_F(ClusterBits, DisaggregatedOverUcx) { ExpectSplitEqual("ucx", 64, 64); }
TEST_F(ClusterBits, BlocksOf16Into64OverShm) {
  ExpectSplitEqual("shm", 16, 64);
}
TEST_F(ClusterBits, BlocksOf64Into16OverUcx) {
  ExpectSplitEqual("ucx", 64, 16);
}

// Twelve more urgent sequences of 20 tokens take a second block each after 44
// tokens, when the pool has three left: the prompt loses its blocks with some
// 40 tokens generated, waits, and is computed again.
TEST_F(ClusterBits, AfterPreemption) {
  constexpr int kOthers = 12;
  const auto cluster = StartCluster(
      {{.instance = "m0", .role = "mixed", .flags = {}}},
      {"--kv.block_tokens=64", "--kv.blocks=40", "--model.max_context=2048"});
  ASSERT_NE(cluster, nullptr);
  const std::vector<worker::TokenId> prompt =
      worker::SmolLm2Prompt(kPromptTokens, 0);
  v1::GenerateRequest request = Request(prompt, kGenerated);
  request.set_priority(10);
  ClusterAnswer answer;
  std::vector<std::thread> threads;
  threads.emplace_back([&] { answer = Generate(*cluster, request); });
  for (int i = 0; i < kOthers; ++i) {
    threads.emplace_back([&cluster, i] {
      EXPECT_EQ(
          Generate(*cluster, Request(worker::SmolLm2Prompt(20, i + 1), 100))
              .tokens.size(),
          100u);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answer.tokens, reference_->tokens);
  const std::vector<SequenceRun> runs =
      RunsOf(cluster->StepLogOf("m0"), prompt);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_GE(runs[0].restarts, 1);
  EXPECT_EQ(runs[0].digests, reference_->digests);
  EXPECT_TRUE(cluster->Stop().ok());
}

}  // namespace
}  // namespace sluice
