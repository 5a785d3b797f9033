#include "worker/model/op_profile.h"

namespace sluice::worker {

absl::string_view Name(StepOp op) {
  static constexpr absl::string_view kNames[kNumStepOps] = {
      "copy_blocks", "embedding", "qkv",    "head_norm", "append_kv",
      "attention",   "digest_kv", "output", "gate_up",   "silu_mul",
      "down",        "head",      "sample", "logprobs"};
  return kNames[static_cast<size_t>(op)];
}

}  // namespace sluice::worker
