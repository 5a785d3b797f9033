#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/model_config.h"
#include "worker/model/registry.h"

namespace sluice::worker {
namespace {

absl::Status Unsupported(absl::string_view key, absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("GGUF key ", key, " ", what));
}

// Reads keys of one architecture ("llama.block_count" for "block_count").
class Keys {
 public:
  Keys(const GgufMetadata& metadata, absl::string_view arch)
      : metadata_(metadata), arch_(arch) {}

  std::string Name(absl::string_view key) const {
    return absl::StrCat(arch_, ".", key);
  }
  bool Has(absl::string_view key) const { return metadata_.Has(Name(key)); }
  absl::StatusOr<int64_t> Count(absl::string_view key) const {
    return metadata_.Count(Name(key));
  }
  absl::StatusOr<int64_t> CountOr(absl::string_view key, int64_t d) const {
    return metadata_.CountOr(Name(key), d);
  }
  absl::StatusOr<double> Number(absl::string_view key) const {
    return metadata_.Number(Name(key));
  }
  absl::StatusOr<double> NumberOr(absl::string_view key, double d) const {
    return metadata_.NumberOr(Name(key), d);
  }
  // The first of two spellings that is there.
  absl::StatusOr<double> NumberOr(absl::string_view key,
                                  absl::string_view older, double d) const {
    return Has(key) ? Number(key) : NumberOr(older, d);
  }
  absl::StatusOr<std::string> StringOr(absl::string_view key,
                                       std::string d) const {
    if (!Has(key)) return d;
    return metadata_.String(Name(key));
  }

 private:
  const GgufMetadata& metadata_;
  const std::string arch_;
};

absl::Status ReadHeadDim(const Keys& keys, ModelConfig* c) {
  if (!keys.Has("attention.key_length")) {
    if (c->heads < 1 || c->hidden % c->heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "GGUF key ", keys.Name("attention.key_length"), " is missing and ",
          c->hidden, " is no multiple of ", c->heads, " heads"));
    }
    c->head_dim = c->hidden / c->heads;
  } else {
    ASSIGN_OR_RETURN(c->head_dim, keys.Count("attention.key_length"));
  }
  ASSIGN_OR_RETURN(int64_t v_dim,
                   keys.CountOr("attention.value_length", c->head_dim));
  if (v_dim != c->head_dim) {
    return Unsupported(
        keys.Name("attention.value_length"),
        absl::StrCat("must equal key_length ", c->head_dim, ", got ", v_dim));
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const GgufFile& file, const Keys& keys, ModelConfig* c) {
  ASSIGN_OR_RETURN(c->hidden, keys.Count("embedding_length"));
  ASSIGN_OR_RETURN(c->layers, keys.Count("block_count"));
  ASSIGN_OR_RETURN(c->heads, keys.Count("attention.head_count"));
  ASSIGN_OR_RETURN(c->kv_heads,
                   keys.CountOr("attention.head_count_kv", c->heads));
  ASSIGN_OR_RETURN(c->ffn, keys.Count("feed_forward_length"));
  ASSIGN_OR_RETURN(c->max_positions, keys.Count("context_length"));
  ASSIGN_OR_RETURN(double epsilon,
                   keys.Number("attention.layer_norm_rms_epsilon"));
  c->norm_epsilon = static_cast<float>(epsilon);
  RETURN_IF_ERROR(ReadHeadDim(keys, c));
  // The vocabulary is what the embedding has rows for.
  const StoredTensor* embedding = file.weights.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.empty()) {
    return absl::NotFoundError(
        "tensor token_embd.weight: wanted shape [vocab, hidden], found no "
        "such tensor");
  }
  ASSIGN_OR_RETURN(c->vocab,
                   keys.CountOr("vocab_size", embedding->shape.front()));
  return absl::OkStatus();
}

absl::Status ReadRope(const Keys& keys, ModelConfig* c) {
  kernels::RopeParams& rope = c->rope;
  ASSIGN_OR_RETURN(rope.rot, keys.CountOr("rope.dimension_count", c->head_dim));
  ASSIGN_OR_RETURN(rope.base, keys.NumberOr("rope.freq_base", 10000));
  ASSIGN_OR_RETURN(std::string kind, keys.StringOr("rope.scaling.type", ""));
  ASSIGN_OR_RETURN(double factor, keys.NumberOr("rope.scaling.factor",
                                                "rope.scale_linear", 1));
  if (kind.empty()) kind = factor > 1 ? "linear" : "none";
  if (kind == "none") return absl::OkStatus();
  if (factor == 0) factor = 1;
  rope.factor = factor;
  if (kind == "linear") {
    rope.scaling = kernels::RopeScaling::kLinear;
    return absl::OkStatus();
  }
  if (kind != "yarn") {
    return Unsupported(keys.Name("rope.scaling.type"),
                       absl::StrCat("\"", kind, "\" is not supported"));
  }
  rope.scaling = kernels::RopeScaling::kYarn;
  ASSIGN_OR_RETURN(
      rope.original_positions,
      keys.CountOr("rope.scaling.original_context_length", c->max_positions));
  ASSIGN_OR_RETURN(rope.beta_fast,
                   keys.NumberOr("rope.scaling.yarn_beta_fast", 32));
  ASSIGN_OR_RETURN(rope.beta_slow,
                   keys.NumberOr("rope.scaling.yarn_beta_slow", 1));
  ASSIGN_OR_RETURN(double attention,
                   keys.NumberOr("rope.scaling.yarn_attn_factor",
                                 "rope.scaling.attn_factor", 1));
  rope.attention_factor = attention * kernels::YarnAttentionFactor(factor);
  if (rope.original_positions < 1 || rope.beta_fast <= 0 ||
      rope.beta_slow <= 0) {
    return absl::InvalidArgumentError(
        "GGUF: YaRN needs a positive original_context_length and betas");
  }
  return absl::OkStatus();
}

// Llama 3 files hold the divisors of its frequencies instead of parameters.
absl::Status ReadRopeDivisors(const WeightFile& weights, ModelConfig* c) {
  if (!weights.Has("rope_freqs.weight")) return absl::OkStatus();
  if (c->rope.rot < 2 || c->rope.rot > 512) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::vector<float> divisors,
                   weights.WantVector("rope_freqs.weight", c->rope.rot / 2));
  for (float divisor : divisors) {
    if (!(divisor > 0)) {
      return absl::DataLossError(absl::StrCat(
          "tensor rope_freqs.weight: divisors must be positive, got ",
          divisor));
    }
  }
  c->rope.divisors.assign(divisors.begin(), divisors.end());
  return absl::OkStatus();
}

absl::Status RefuseUnsupported(const Keys& keys) {
  for (const char* key : {"expert_count", "attention.sliding_window"}) {
    ASSIGN_OR_RETURN(int64_t value, keys.CountOr(key, 0));
    if (value != 0) {
      return Unsupported(keys.Name(key),
                         absl::StrCat(value, " is not supported"));
    }
  }
  return absl::OkStatus();
}

void ReadBiases(const WeightFile& weights, ModelConfig* c) {
  const Architecture& arch = *c->architecture;
  const bool stated = arch.attention_biases == Biases::kAsStated;
  c->qkv_bias = arch.attention_biases == Biases::kQkv ||
                (stated && weights.Has("blk.0.attn_q.bias"));
  c->output_bias = stated && weights.Has("blk.0.attn_output.bias");
  c->mlp_bias = arch.mlp_bias_possible && weights.Has("blk.0.ffn_gate.bias");
}

absl::Status ReadEosIds(const GgufMetadata& metadata, ModelConfig* c) {
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id"}) {
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(int64_t id, metadata.Count(key));
    c->eos_ids.push_back(id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  ModelConfig config;
  ASSIGN_OR_RETURN(std::string name,
                   file.metadata.String("general.architecture"));
  ASSIGN_OR_RETURN(config.architecture, FindArchitecture(name));
  const Keys keys(file.metadata, name);
  RETURN_IF_ERROR(RefuseUnsupported(keys));
  RETURN_IF_ERROR(ReadShape(file, keys, &config));
  RETURN_IF_ERROR(ReadRope(keys, &config));
  RETURN_IF_ERROR(ReadRopeDivisors(file.weights, &config));
  ReadBiases(file.weights, &config);
  config.rope_pairs = config.architecture->gguf_rope_pairs;
  config.tied_head = !file.weights.Has("output.weight");
  RETURN_IF_ERROR(ReadEosIds(file.metadata, &config));
  RETURN_IF_ERROR(CheckConfig(config));
  return config;
}

}  // namespace sluice::worker
