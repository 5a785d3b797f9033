#include "worker/model/arch/architectures.h"

namespace sluice::worker {

// Qwen 1.5, 2 and 2.5: q, k and v have biases, the output product has none.
const Architecture& Qwen2Architecture() {
  static constexpr Architecture kQwen2 = {
      .name = "qwen2",
      .class_name = "Qwen2ForCausalLM",
      .gguf_rope_pairs = kernels::RopePairs::kHalf,
      .attention_biases = Biases::kQkv,
      .mlp_bias_possible = false,
      .norm_of_q_and_k = false,
      .window_without_switch = false,
  };
  return kQwen2;
}

}  // namespace sluice::worker
