#ifndef WORKER_EXEC_SEQUENCE_STATE_H_
#define WORKER_EXEC_SEQUENCE_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "kernels/sample.h"
#include "worker/engine/request.h"
#include "worker/engine/step_plan.h"

namespace sluice::worker {

// What sampling needs to know of one sequence: its tokens, which of them are
// generated, and how often each occurs (sampling specification section 4.2).
// Rank thread only.
class SequenceState {
 public:
  // `eos_ids` are banned with the stop tokens while min_tokens holds.
  SequenceState(const SequenceStart& start, absl::Span<const TokenId> eos_ids);

  const SamplingParams& params() const { return *params_; }
  uint32_t prompt_tokens() const { return prompt_tokens_; }
  absl::Span<const TokenId> tokens() const { return tokens_; }

  void Append(TokenId token);
  // Forgets the tokens from `length` on (a token was discarded by the engine).
  void Truncate(uint32_t length);

  // The sampler's arguments for the token at position tokens().size(). Borrows
  // this object until the next Append() or Truncate().
  kernels::SampleRow RowFor(const float* logits) const;

 private:
  void Count(TokenId token, bool generated);

  std::vector<TokenId> tokens_;
  uint32_t prompt_tokens_ = 0;
  uint64_t seed_ = 0;
  std::shared_ptr<const SamplingParams> params_;
  std::vector<TokenId> banned_;
  bool counts_matter_ = false;               // some penalty is on
  std::vector<kernels::TokenCount> counts_;  // in order of first occurrence
  absl::flat_hash_map<TokenId, uint32_t> count_index_;
};

}  // namespace sluice::worker

#endif  // WORKER_EXEC_SEQUENCE_STATE_H_
