#include "worker/engine/batch_policy.h"

#include "absl/strings/str_cat.h"

namespace sluice::worker {

absl::Status CheckBatchLimits(const BatchLimits& limits) {
  if (limits.max_batch_seqs < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_batch_seqs must be positive, got ", limits.max_batch_seqs));
  }
  const uint64_t least = uint64_t{limits.max_batch_seqs} + limits.block_tokens;
  if (limits.max_batch_tokens < least) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_batch_tokens ", limits.max_batch_tokens, " is below ", least,
        " = max_batch_seqs ", limits.max_batch_seqs, " + block_tokens ",
        limits.block_tokens, ": decoding could starve prefill"));
  }
  if (limits.chunk_tokens != 0 && limits.chunk_tokens < limits.block_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens ", limits.chunk_tokens,
                     " is below block_tokens ", limits.block_tokens));
  }
  return absl::OkStatus();
}

}  // namespace sluice::worker
