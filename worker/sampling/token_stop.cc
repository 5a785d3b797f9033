#include "worker/sampling/token_stop.h"

#include <algorithm>

namespace sluice::worker {
namespace {

bool Holds(absl::Span<const TokenId> ids, TokenId token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

}  // namespace

StopCause CheckStop(const StopRules& rules, TokenId token, uint32_t generated,
                    uint32_t length) {
  if (!rules.ignore_eos && Holds(rules.eos_ids, token)) return StopCause::kEos;
  if (Holds(rules.stop_token_ids, token)) return StopCause::kStopToken;
  if (generated >= rules.max_tokens) return StopCause::kMaxTokens;
  if (length >= rules.length_limit) return StopCause::kLengthLimit;
  return StopCause::kNone;
}

bool StopsByLength(const StopRules& rules, uint32_t generated,
                   uint32_t length) {
  return generated >= rules.max_tokens || length >= rules.length_limit;
}

}  // namespace sluice::worker
