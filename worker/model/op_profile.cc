#include "worker/model/op_profile.h"

namespace sluice::worker {

absl::string_view Name(StepOp op) {
  static constexpr absl::string_view kNames[kNumStepOps] = {
      "copy_blocks", "embedding", "norm",     "qkv",
      "head_norm",   "rope",      "write_kv", "attention",
      "digest_kv",   "output",    "gate_up",  "silu_mul",
      "down",        "head",      "sample",   "logprobs"};
  return kNames[static_cast<size_t>(op)];
}

}  // namespace sluice::worker
