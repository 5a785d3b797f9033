#include "worker/model/arch/architectures.h"

namespace sluice::worker {

// Qwen 3, dense: a norm of each head of q and k, biases only where stated.
const Architecture& Qwen3Architecture() {
  static constexpr Architecture kQwen3 = {
      .name = "qwen3",
      .class_name = "Qwen3ForCausalLM",
      .gguf_rope_pairs = kernels::RopePairs::kHalf,
      .attention_biases = Biases::kAsStated,
      .mlp_bias_possible = false,
      .norm_of_q_and_k = true,
      .window_without_switch = false,
  };
  return kQwen3;
}

}  // namespace sluice::worker
