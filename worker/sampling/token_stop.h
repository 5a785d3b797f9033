#ifndef WORKER_SAMPLING_TOKEN_STOP_H_
#define WORKER_SAMPLING_TOKEN_STOP_H_

#include <cstdint>

#include "absl/types/span.h"
#include "worker/sampling/sampling_params.h"

namespace sluice::worker {

enum class StopCause : uint8_t {
  kNone,
  kEos,
  kStopToken,
  kMaxTokens,
  kLengthLimit,
};

// What can end a sequence by its tokens. Borrows both spans' owners.
struct StopRules {
  absl::Span<const TokenId> eos_ids;
  absl::Span<const TokenId> stop_token_ids;
  bool ignore_eos = false;
  uint32_t max_tokens = 1;    // generated ones
  uint32_t length_limit = 1;  // prompt and generated: the model's length
};

// Whether the sequence ends after `token` was appended: `generated` and
// `length` count it (sampling specification section 10, in its order).
StopCause CheckStop(const StopRules& rules, TokenId token, uint32_t generated,
                    uint32_t length);

// Whether any token that brings the sequence to these counts ends it.
bool StopsByLength(const StopRules& rules, uint32_t generated, uint32_t length);

}  // namespace sluice::worker

#endif  // WORKER_SAMPLING_TOKEN_STOP_H_
