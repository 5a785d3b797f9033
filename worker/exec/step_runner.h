#ifndef WORKER_EXEC_STEP_RUNNER_H_
#define WORKER_EXEC_STEP_RUNNER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_table.h"
#include "kvtransfer/append_digests.h"
#include "worker/cache/kv_pool.h"
#include "worker/engine/executor.h"
#include "worker/engine/step_plan.h"
#include "worker/exec/sequence_state.h"
#include "worker/exec/step_profiler.h"
#include "worker/model/page_memory.h"
#include "worker/model/transformer.h"

namespace sluice::worker {

// The pool that one rank of a model takes.
KvPoolOptions PoolOptionsFor(const ModelConfig& config, kernels::KvDtype dtype,
                             uint32_t block_tokens, uint32_t num_blocks);

// Everything is borrowed for the runner's life.
struct StepRunnerOptions {
  const CausalLm* model = nullptr;
  const KvPool* pool = nullptr;
  const kernels::OpTable* ops = nullptr;
  kernels::ThreadPool* threads = nullptr;
  const Clock* clock = nullptr;
  int64_t max_batch_seqs = 256;     // rows of a step
  int64_t max_batch_tokens = 8192;  // new tokens of a step
  int64_t model_tokens = 0;         // longest sequence
  std::vector<TokenId> eos_ids;
  bool digest_logits = false;         // fill SampledToken::logits_sha256
  LayerObserver* observer = nullptr;  // may be null
  StepProfiler* profiler = nullptr;   // may be null
  bool pin_threads = false;  // of a RankExecutor, ThreadPool::PinThreads()
  // May be null: digests of the pool's group 0, kept as KV is written, before
  // the observer hears of a layer. Nobody else writes the pool unheard.
  kvtransfer::AppendDigests* digests = nullptr;
};

// Runs steps on the calling thread, one at a time, and keeps the sampling
// state of every started sequence. Allocates its buffers when it is made.
class StepRunner {
 public:
  // kResourceExhausted when the buffers cannot be had, kInvalidArgument when
  // the pool does not fit the model.
  static absl::StatusOr<std::unique_ptr<StepRunner>> Create(
      const StepRunnerOptions& options);

  // buffer_bytes() of a runner with these limits.
  static int64_t BufferBytes(const CausalLm& model, const StepLimits& limits);

  // kInternal for a plan that cannot be run (it names what is wrong); then
  // nothing was computed, but `ends` and `starts` are done.
  absl::StatusOr<StepResult> Run(const StepPlan& plan);

  // The same into a result whose memory is used again: then a step of decode
  // rows that starts and ends no sequence takes no lock, allocates nothing and
  // makes no system call while every compute thread has its core.
  absl::Status RunInto(const StepPlan& plan, StepResult* result);

  // Memory of all buffers.
  int64_t buffer_bytes() const;

 private:
  // One log-probability result to fill: `out` of a token's own row.
  struct WantedLogprobs {
    kernels::LogprobsRow row;
    TokenLogprobs* out = nullptr;
  };

  explicit StepRunner(const StepRunnerOptions& options) : options_(options) {}

  void ReserveInputs();
  void UpdateSequences(const StepPlan& plan);
  // Everything a checked plan computes.
  void Compute(const StepPlan& plan, StepResult* result);
  absl::Status CheckPlan(const StepPlan& plan) const;
  absl::Status CheckRow(const PlanRow& row) const;
  absl::Status CheckBlocks(const PlanRow& row) const;
  // Brings the states of the sequences a row samples to the row's last token.
  absl::Status AlignStates(const PlanRow& row);
  void BuildInputs(const StepPlan& plan);
  // The new tokens cut at blocks, when digests of them are kept.
  void BuildAppended(const StepPlan& plan);
  // Keeps the digests of the new tokens of one layer.
  void DigestLayer(uint32_t layer);
  void RunForward(const StepPlan& plan);
  void RunSamples(const StepPlan& plan, StepResult* result);
  // Samples rows [first, last) of sampling_rows_ from one set of logits.
  void SampleSlice(const StepPlan& plan, size_t first, size_t last,
                   StepResult* result);
  void RunPromptLogprobs(const PlanRow& row, int64_t first_token,
                         StepResult* result);
  void FillLogprobs(std::vector<WantedLogprobs>* wanted);

  kernels::OpContext context() const { return {.pool = options_.threads}; }

  const StepRunnerOptions options_;
  std::unique_ptr<ForwardBuffers> buffers_;
  PageMemory sample_scratch_;
  absl::flat_hash_map<SequenceKey, std::unique_ptr<SequenceState>> sequences_;

  // Inputs of the step being run; kept to reuse their memory.
  std::vector<int32_t> ids_;
  std::vector<int64_t> positions_;
  std::vector<int64_t> slots_;
  std::vector<uint32_t> q_off_;
  std::vector<uint32_t> kv_before_;
  std::vector<uint32_t> block_table_;
  int64_t table_width_ = 0;
  std::vector<kvtransfer::AppendDigests::Tokens> appended_;
  std::vector<size_t> sampling_rows_;  // indices into plan.rows
  std::vector<int32_t> logit_rows_;
  std::vector<kernels::SampleRow> sample_rows_;
  std::vector<SequenceState*> sample_states_;
  std::vector<int32_t> sampled_;
  std::vector<kernels::SampleStatus> statuses_;
};

}  // namespace sluice::worker

#endif  // WORKER_EXEC_STEP_RUNNER_H_
