#ifndef TESTS_WORKER_EXEC_RIG_H_
#define TESTS_WORKER_EXEC_RIG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/clock.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_table.h"
#include "worker/cache/kv_pool.h"
#include "worker/engine/step_plan.h"
#include "worker/exec/step_runner.h"
#include "worker/model/loaded_model.h"

namespace sluice::worker {

// tests/golden/tiny/<name>, as tests find it.
std::string TinyModelPath(const std::string& name);

// The real model: $SLUICE_TEST_MODEL, or where deploy/local.sh keeps it. Ends
// the test run with a clear text when it is not there.
std::string SmolLm2Path();

// Pseudo-random tokens of its vocabulary, the same ones for the same seed.
std::vector<TokenId> SmolLm2Prompt(int tokens, uint32_t seed);

// Loads once per process for each (path, widening).
std::shared_ptr<const LoadedModel> SharedModel(const std::string& path,
                                               bool widen_to_f32);

// Levels a Rig runs: this machine's, and amx by emulation where that works.
std::vector<kernels::Isa> RigIsas();

struct RigOptions {
  std::shared_ptr<const LoadedModel> model;
  const CausalLm* causal_lm = nullptr;  // instead of model->model
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  kernels::Isa isa = kernels::DetectIsa();
  int threads = 1;
  uint32_t block_tokens = 64;
  uint32_t num_blocks = 64;
  int64_t max_batch_seqs = 32;
  int64_t max_batch_tokens = 2048;
  int64_t model_tokens = 0;  // 0: the model's
  bool digest_logits = true;
};

// What one sequence produced.
struct Stream {
  std::vector<TokenId> tokens;
  std::vector<std::string> digests;  // of the logits of each sampled row
};

// A model, its pool and a step runner, driven step by step.
class Rig {
 public:
  explicit Rig(const RigOptions& options);

  StepRunner& runner() { return *runner_; }
  const KvPool& pool() const { return *pool_; }
  const CausalLm& model() const {
    return options_.causal_lm != nullptr ? *options_.causal_lm
                                         : *options_.model->model;
  }
  StepRunnerOptions runner_options() const;

  // Blocks [first, first + n) covering `tokens` entries.
  std::vector<BlockId> Blocks(BlockId first, int64_t tokens) const;

  SequenceStart StartOf(SequenceKey seq, std::vector<TokenId> prompt,
                        const SamplingParams& params) const;

  // Prefills in chunks of `chunk` tokens and decodes until `count` tokens.
  struct GenerateArgs {
    SequenceKey seq = 1;
    std::vector<TokenId> prompt;
    int count = 1;
    int64_t chunk = 1 << 20;
    BlockId first_block = 1;
    SamplingParams params;
  };
  Stream Generate(const GenerateArgs& args);

  // Greedy tokens of every prompt, decoded together.
  std::vector<std::vector<TokenId>> GreedyTogether(
      const std::vector<std::vector<TokenId>>& prompts, int count);

  // Logits [positions.size(), vocab] of a prompt run in one step.
  std::vector<float> LogitsAt(const std::vector<TokenId>& prompt,
                              const std::vector<int32_t>& positions);

 private:
  RigOptions options_;
  std::unique_ptr<kernels::ThreadPool> threads_;
  const kernels::OpTable* ops_ = nullptr;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<StepRunner> runner_;
  uint64_t next_step_ = 1;
};

// Parameters of a greedy request.
SamplingParams Greedy(int max_tokens);

}  // namespace sluice::worker

#endif  // TESTS_WORKER_EXEC_RIG_H_
