#ifndef WORKER_ENGINE_BATCH_POLICY_H_
#define WORKER_ENGINE_BATCH_POLICY_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"

namespace sluice::worker {

// What one step may hold (KV cache specification, section 7.2).
struct BatchLimits {
  uint32_t max_batch_seqs = 256;     // rows
  uint32_t max_batch_tokens = 8192;  // new tokens
  uint32_t chunk_tokens = 0;         // cap of one prefill chunk; 0: none
  uint32_t block_tokens = 64;
};

// kInvalidArgument: limits under which some sequence could never advance.
absl::Status CheckBatchLimits(const BatchLimits& limits);

inline uint32_t BlocksFor(uint32_t entries, uint32_t block_tokens) {
  return static_cast<uint32_t>((uint64_t{entries} + block_tokens - 1) /
                               block_tokens);
}

// Blocks that must stay available when a sequence is admitted beside others:
// 5 % of the pool, at least one.
inline uint32_t WatermarkBlocks(uint32_t usable_blocks) {
  return std::max<uint32_t>(1, (usable_blocks + 19) / 20);
}

// Tokens of a prompt's next chunk when `left` are not computed: all of them if
// they fit `budget`, else the budget rounded down to whole blocks, maybe 0.
inline uint32_t ChunkTokens(uint32_t left, uint32_t budget,
                            uint32_t block_tokens) {
  return left <= budget ? left : budget / block_tokens * block_tokens;
}

// Lower is more urgent; waiting always wins in the end.
inline int64_t EffectivePriority(int32_t priority, int64_t waited_us,
                                 uint32_t aging_ms) {
  return priority - waited_us / (int64_t{1000} * aging_ms);
}

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_BATCH_POLICY_H_
