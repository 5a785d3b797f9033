#ifndef WORKER_CACHE_MEMORY_PLANNER_H_
#define WORKER_CACHE_MEMORY_PLANNER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice::worker {

// What a dense decoder needs on one rank, all in elements but for bytes.
struct PlannedModel {
  int64_t weight_bytes = 0;  // as kept, without what it shares with the target
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
};

// A speculative proposer beside the target; none has weight_bytes 0.
struct PlannedDraft {
  int64_t weight_bytes = 0;
  std::string shared;    // "embedding, head": named in the budget
  int64_t features = 0;  // hidden states it reads per token; 0: none
};

// Everything the block count depends on (operators specification section 9).
struct MemoryPlanInput {
  PlannedModel target;
  PlannedDraft draft;
  int64_t element_bytes = 4;  // of a value between two ops
  // All work memory of steps with this input's limits, as their executor counts
  // it; unset: activations and logits by a formula that bounds any executor's.
  std::function<int64_t(const MemoryPlanInput&)> buffer_bytes;
  int64_t block_bytes = 0;         // one block, all groups of target and draft
  int64_t block_digest_bytes = 0;  // a source's digests of one block
  int64_t block_tokens = 64;
  int64_t model_tokens = 0;  // longest sequence
  int64_t draft_tokens = 0;  // K
  int64_t max_batch_seqs = 256;
  int64_t max_batch_tokens = 8192;
  int64_t captured_steps = 0;
  int64_t captured_step_bytes = int64_t{32} << 20;
  int64_t margin_bytes = int64_t{512} << 20;

  int64_t free_bytes = 0;  // of this rank, before anything is allocated
  int64_t fraction_num = 9;
  int64_t fraction_den = 10;
  // The operator's choice instead of what is left of the budget: memory for
  // blocks, or their number (with the null block); 0: unset.
  int64_t kv_bytes = 0;
  int64_t blocks = 0;
};

struct BudgetLine {
  std::string name;
  int64_t bytes = 0;
};

struct MemoryPlan {
  int64_t budget_bytes = 0;
  std::vector<BudgetLine> fixed;  // without KV
  int64_t fixed_bytes = 0;
  int64_t num_blocks = 0;  // with the null block
  int64_t min_blocks = 0;  // the smallest legal pool
  int64_t max_blocks = 0;  // what the batch limits can use
  int64_t kv_tokens = 0;   // usable
  std::string text;        // the printable budget, lines end in \n
  std::vector<std::string> warnings;
};

// Pure. kInvalidArgument for sizes that make no sense; kResourceExhausted when
// fewer than the smallest legal pool fit, with the whole budget and advice in
// the text.
absl::StatusOr<MemoryPlan> PlanMemory(const MemoryPlanInput& input);

// Memory this process could still have: MemAvailable, at most what its
// cgroups leave. 0 when the system does not tell.
int64_t FreeHostBytes();

}  // namespace sluice::worker

#endif  // WORKER_CACHE_MEMORY_PLANNER_H_
