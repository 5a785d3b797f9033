#include "worker/exec/step_log.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "tests/worker/exec/rig.h"

namespace sluice::worker {
namespace {

std::string NewPath(const std::string& name) {
  const std::string path = absl::StrCat(testing::TempDir(), "/", name);
  std::filesystem::remove(path);
  return path;
}

StepLogHeader HeaderOf(const LoadedModel& model) {
  return {.model_digest = ToBytes(model.files.digest),
          .numerics_id = "test",
          .kv_dtype = kernels::KvDtype::kBF16,
          .widened_to_f32 = false,
          .block_tokens = 16,
          .num_blocks = 30,
          .max_batch_seqs = 4,
          .max_batch_tokens = 64,
          .model_tokens = 200};
}

SamplingParams EveryParameter() {
  SamplingParams params;
  params.temperature = 0.7f;
  params.top_k = 20;
  params.top_p = 0.9f;
  params.min_p = 0.05f;
  params.repetition_penalty = 1.3f;
  params.frequency_penalty = 0.25f;
  params.presence_penalty = -0.5f;
  params.logit_bias = {{.token = 3, .bias = 1.5f}, {.token = 9, .bias = -2}};
  params.max_tokens = 11;
  params.min_tokens = 2;
  params.stop_token_ids = {4, 5};
  params.ignore_eos = true;
  params.n = 2;
  params.logprobs = 0;
  params.prompt_logprobs = 3;
  params.seed = 0xfedcba9876543210u;
  return params;
}

TEST(StepLog, ReadsBackWhatWasWritten) {
  const std::string path = NewPath("steps");
  StepLogHeader header = {.model_digest = std::string(32, 'x'),
                          .numerics_id = "x86.1/00",
                          .kv_dtype = kernels::KvDtype::kF32,
                          .widened_to_f32 = true,
                          .block_tokens = 16,
                          .num_blocks = 9,
                          .max_batch_seqs = 3,
                          .max_batch_tokens = 99,
                          .model_tokens = 1000};
  StepPlan plan;
  plan.step = 77;
  plan.ends = {1, 2};
  plan.copies = {{.from = 3, .to = 4}};
  plan.starts = {
      {.seq = 5,
       .tokens = {1, 2, 3},
       .prompt_tokens = 2,
       .seed = 0xffffffffffffffffu,
       .sampling = std::make_shared<const SamplingParams>(EveryParameter())}};
  plan.rows = {{.seq = 5,
                .kv_before = 1,
                .tokens = {2, 3},
                .blocks = {7},
                .samples = {5, 6},
                .prompt_logprobs = -1},
               {.seq = 8, .tokens = {1}, .blocks = {6}, .prompt_logprobs = 0}};
  StepResult result;
  result.sampled = {
      {.seq = 5,
       .token = 12,
       .status = kernels::SampleStatus::kOk,
       .logprobs = {},
       .logits_sha256 = std::string(32, 'd')},
      {.seq = 6, .token = -1, .status = kernels::SampleStatus::kNotFinite}};
  {
    auto writer = StepLogWriter::Open(path, header);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(plan, result).ok());
  }
  const auto records = ReadStepLog(path);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 2u);
  const StepLogHeader& h = (*records)[0].header;
  EXPECT_TRUE((*records)[0].is_header);
  EXPECT_EQ(h.model_digest, header.model_digest);
  EXPECT_EQ(h.kv_dtype, kernels::KvDtype::kF32);
  EXPECT_TRUE(h.widened_to_f32);
  EXPECT_EQ(h.num_blocks, 9u);
  EXPECT_EQ(h.model_tokens, 1000u);
  const StepPlan& p = (*records)[1].plan;
  EXPECT_EQ(p.step, 77u);
  EXPECT_EQ(p.ends, plan.ends);
  EXPECT_EQ(p.copies[0].to, 4u);
  EXPECT_EQ(p.starts[0].tokens, plan.starts[0].tokens);
  EXPECT_EQ(p.starts[0].seed, plan.starts[0].seed);
  const SamplingParams& s = *p.starts[0].sampling;
  const SamplingParams w = EveryParameter();
  EXPECT_EQ(s.temperature, w.temperature);
  EXPECT_EQ(s.top_k, w.top_k);
  EXPECT_EQ(s.top_p, w.top_p);
  EXPECT_EQ(s.min_p, w.min_p);
  EXPECT_EQ(s.repetition_penalty, w.repetition_penalty);
  EXPECT_EQ(s.frequency_penalty, w.frequency_penalty);
  EXPECT_EQ(s.presence_penalty, w.presence_penalty);
  ASSERT_EQ(s.logit_bias.size(), 2u);
  EXPECT_EQ(s.logit_bias[1].token, 9);
  EXPECT_EQ(s.logit_bias[1].bias, -2);
  EXPECT_EQ(s.max_tokens, w.max_tokens);
  EXPECT_EQ(s.min_tokens, w.min_tokens);
  EXPECT_EQ(s.stop_token_ids, w.stop_token_ids);
  EXPECT_TRUE(s.ignore_eos);
  EXPECT_EQ(s.n, 2);
  EXPECT_EQ(s.logprobs, 0);
  EXPECT_EQ(s.prompt_logprobs, 3);
  EXPECT_EQ(s.seed, w.seed);
  EXPECT_EQ(p.rows[0].samples, plan.rows[0].samples);
  EXPECT_EQ(p.rows[0].prompt_logprobs, -1);
  EXPECT_EQ(p.rows[1].prompt_logprobs, 0);
  EXPECT_EQ(p.rows[0].kv_before, 1u);
  const StepResult& r = (*records)[1].result;
  ASSERT_EQ(r.sampled.size(), 2u);
  EXPECT_EQ(r.sampled[0].logits_sha256, std::string(32, 'd'));
  EXPECT_EQ(r.sampled[1].token, -1);
  EXPECT_EQ(r.sampled[1].status, kernels::SampleStatus::kNotFinite);
}

TEST(StepLog, CutAnywhereIsDataLossOrWholeRecords) {
  const std::string path = NewPath("whole");
  {
    auto writer = StepLogWriter::Open(path, {.block_tokens = 16});
    ASSERT_TRUE(writer.ok());
    StepPlan plan;
    plan.rows = {{.seq = 8, .tokens = {1, 2}, .blocks = {6}}};
    ASSERT_TRUE((*writer)->Write(plan, {}).ok());
  }
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  int whole = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string cut = NewPath("cut");
    std::ofstream(cut, std::ios::binary) << bytes.substr(0, size);
    const auto records = ReadStepLog(cut);
    if (records.ok()) {
      ++whole;
    } else {
      EXPECT_EQ(records.status().code(), absl::StatusCode::kDataLoss);
    }
  }
  EXPECT_EQ(whole, 2);  // nothing, and the header alone
}

// Runs the tool; its exit code and output.
int RunReplay(const std::string& log, const std::string& more,
              std::string* output) {
  const std::string command =
      absl::StrCat("tools/replay --model=tests/golden/tiny/llama --log=", log,
                   " ", more, " 2>&1");
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  output->clear();
  while (size_t n = fread(buffer, 1, sizeof(buffer), pipe)) {
    output->append(buffer, n);
  }
  return WEXITSTATUS(pclose(pipe));
}

// Writes a log of a prompt and some sampled tokens; `spoil` changes a digest.
void WriteLog(const std::string& path, bool spoil) {
  const auto model = SharedModel(TinyModelPath("llama"), false);
  Rig rig({.model = model,
           .block_tokens = 16,
           .num_blocks = 30,
           .max_batch_seqs = 4,
           .max_batch_tokens = 64,
           .model_tokens = 200});
  auto writer = StepLogWriter::Open(path, HeaderOf(*model));
  ASSERT_TRUE(writer.ok()) << writer.status();
  SamplingParams params = EveryParameter();
  std::vector<TokenId> tokens = {7, 8, 300, 12, 9};
  for (uint64_t step = 0; step < 6; ++step) {
    StepPlan plan;
    plan.step = step;
    if (step == 0) plan.starts = {rig.StartOf(1, tokens, params)};
    const size_t before = step == 0 ? 0 : tokens.size() - 1;
    plan.rows = {{.seq = 1,
                  .kv_before = static_cast<uint32_t>(before),
                  .tokens = {tokens.begin() + before, tokens.end()},
                  .blocks = rig.Blocks(3, 20),
                  .samples = {1}}};
    auto result = rig.runner().Run(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    tokens.push_back(result->sampled[0].token);
    if (spoil && step == 3) result->sampled[0].logits_sha256[5] ^= 1;
    ASSERT_TRUE((*writer)->Write(plan, *result).ok());
  }
}

TEST(Replay, EqualOnEveryLevelAndThreadCount) {
  const std::string log = NewPath("replayed");
  WriteLog(log, false);
  for (const char* flags :
       {"", "--cpu.isa=portable", "--threads=1", "--threads=3"}) {
    std::string output;
    EXPECT_EQ(RunReplay(log, flags, &output), 0) << output;
    EXPECT_TRUE(absl::StrContains(output, "6 steps, 6 rows equal, 0 differ"))
        << output;
  }
}

TEST(Replay, SeesOneChangedBit) {
  const std::string log = NewPath("spoiled");
  WriteLog(log, true);
  std::string output;
  EXPECT_EQ(RunReplay(log, "", &output), 1) << output;
  EXPECT_TRUE(absl::StrContains(output, "step 3 sequence 1")) << output;
  EXPECT_TRUE(absl::StrContains(output, "6 steps, 5 rows equal, 1 differ"))
      << output;
}

TEST(Replay, BadArgumentsAndFiles) {
  std::string output;
  EXPECT_EQ(RunReplay("/nonexistent", "", &output), 65) << output;
  EXPECT_EQ(RunReplay("x", "--threads=0", &output), 64) << output;
  EXPECT_EQ(RunReplay("x", "--cpu.isa=z80", &output), 64) << output;
  EXPECT_EQ(RunReplay("x", "--what", &output), 64) << output;
}

}  // namespace
}  // namespace sluice::worker
