#ifndef WORKER_HANDOFF_FIRST_TOKENS_H_
#define WORKER_HANDOFF_FIRST_TOKENS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/engine/kv_handoff.h"

namespace sluice::worker {

// First tokens as the attachment of a transfer: a serialised
// sluice.v1.FirstTokens. kInvalidArgument for bytes that are none, hold no
// token, or logprobs of another number.
std::string EncodeFirstTokens(const FirstTokens& first);
absl::StatusOr<FirstTokens> DecodeFirstTokens(absl::string_view bytes);

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_FIRST_TOKENS_H_
