#include "worker/model/tensor_names.h"

#include "absl/strings/str_cat.h"

namespace sluice::worker {

LayerTensorNames LayerNames(Naming naming, int64_t layer) {
  if (naming == Naming::kGguf) {
    const std::string p = absl::StrCat("blk.", layer, ".");
    return {.attention_norm = p + "attn_norm",
            .q = p + "attn_q",
            .k = p + "attn_k",
            .v = p + "attn_v",
            .o = p + "attn_output",
            .q_norm = p + "attn_q_norm",
            .k_norm = p + "attn_k_norm",
            .mlp_norm = p + "ffn_norm",
            .gate = p + "ffn_gate",
            .up = p + "ffn_up",
            .down = p + "ffn_down"};
  }
  const std::string p = absl::StrCat("model.layers.", layer, ".");
  return {.attention_norm = p + "input_layernorm",
          .q = p + "self_attn.q_proj",
          .k = p + "self_attn.k_proj",
          .v = p + "self_attn.v_proj",
          .o = p + "self_attn.o_proj",
          .q_norm = p + "self_attn.q_norm",
          .k_norm = p + "self_attn.k_norm",
          .mlp_norm = p + "post_attention_layernorm",
          .gate = p + "mlp.gate_proj",
          .up = p + "mlp.up_proj",
          .down = p + "mlp.down_proj"};
}

ModelTensorNames ModelNames(Naming naming) {
  if (naming == Naming::kGguf) {
    return {.embedding = "token_embd.weight",
            .final_norm = "output_norm.weight",
            .head = "output.weight"};
  }
  return {.embedding = "model.embed_tokens.weight",
          .final_norm = "model.norm.weight",
          .head = "lm_head.weight"};
}

}  // namespace sluice::worker
