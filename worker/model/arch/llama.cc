#include "worker/model/arch/architectures.h"

namespace sluice::worker {

// Llama 2 and 3 and models of their shape (SmolLM2, ...). GGUF stores the rows
// of q and k permuted so that rotated pairs are neighbours.
const Architecture& LlamaArchitecture() {
  static constexpr Architecture kLlama = {
      .name = "llama",
      .class_name = "LlamaForCausalLM",
      .gguf_rope_pairs = kernels::RopePairs::kInterleaved,
      .attention_biases = Biases::kAsStated,
      .mlp_bias_possible = true,
      .norm_of_q_and_k = false,
      .window_without_switch = true,
  };
  return kLlama;
}

}  // namespace sluice::worker
