#ifndef WORKER_MODEL_ARCHITECTURE_H_
#define WORKER_MODEL_ARCHITECTURE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "kernels/rope.h"

namespace sluice::worker {

enum class Biases : uint8_t {
  kNone,
  kQkv,       // q, k and v always have one
  kAsStated,  // q, k, v and output, if the file says so
};

// How one family of decoders differs from the others. Constant; each lives in
// arch/<name>.cc.
struct Architecture {
  // general.architecture of GGUF and model_type of config.json.
  absl::string_view name;
  absl::string_view class_name;  // in config.json's "architectures"
  // Pairs rotated in GGUF files; safetensors are always kHalf.
  kernels::RopePairs gguf_rope_pairs = kernels::RopePairs::kHalf;
  Biases attention_biases = Biases::kNone;
  bool mlp_bias_possible = false;
  bool norm_of_q_and_k = false;  // per head, before RoPE
  // config.json: sliding_window counts without use_sliding_window.
  bool window_without_switch = false;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_ARCHITECTURE_H_
