#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/model_config.h"
#include "worker/model/registry.h"

namespace sluice::worker {
namespace {

using Json = nlohmann::json;

absl::Status Invalid(absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: ", key, " ", what));
}

absl::Status Unsupported(absl::string_view key, absl::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat("config.json: ", key, " ", what));
}

// The value of `key`, or null when absent or JSON null.
const Json* Lookup(const Json& object, const char* key) {
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) return nullptr;
  return &*it;
}

absl::StatusOr<int64_t> CountAt(const Json& object, const char* key,
                                std::optional<int64_t> fallback) {
  const Json* value = Lookup(object, key);
  if (value == nullptr) {
    if (fallback.has_value()) return *fallback;
    return Invalid(key, "is missing");
  }
  if (!value->is_number_integer() || value->get<double>() < 0 ||
      value->get<double>() > 1e15) {
    return Invalid(key, absl::StrCat("must be a count, got ", value->dump()));
  }
  return value->get<int64_t>();
}

absl::StatusOr<double> NumberAt(const Json& object, const char* key,
                                std::optional<double> fallback) {
  const Json* value = Lookup(object, key);
  if (value == nullptr) {
    if (fallback.has_value()) return *fallback;
    return Invalid(key, "is missing");
  }
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    return Invalid(key, absl::StrCat("must be a number, got ", value->dump()));
  }
  return value->get<double>();
}

absl::StatusOr<bool> BoolAt(const Json& object, const char* key,
                            bool fallback) {
  const Json* value = Lookup(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    return Invalid(key, absl::StrCat("must be a bool, got ", value->dump()));
  }
  return value->get<bool>();
}

absl::StatusOr<const Architecture*> ReadArchitecture(const Json& json) {
  const Json* classes = Lookup(json, "architectures");
  if (classes != nullptr) {
    if (!classes->is_array() || classes->size() != 1 ||
        !(*classes)[0].is_string()) {
      return Invalid("architectures", "must be a list of one string");
    }
    return FindArchitectureOfClass((*classes)[0].get<std::string>());
  }
  const Json* type = Lookup(json, "model_type");
  if (type == nullptr || !type->is_string()) {
    return Invalid("architectures", "and model_type are missing");
  }
  return FindArchitecture(type->get<std::string>());
}

// rope_parameters may hold one map for each layer type; all attention here is
// full attention.
const Json* RopeParametersOf(const Json& json) {
  const Json* parameters = Lookup(json, "rope_parameters");
  if (parameters == nullptr || !parameters->is_object()) return parameters;
  const Json* full = Lookup(*parameters, "full_attention");
  return full != nullptr && full->is_object() ? full : parameters;
}

absl::Status Merge(const std::string& key, const Json& value, Json* merged) {
  // The kind of scaling is called "type" in older files.
  const std::string name = key == "type" ? "rope_type" : key;
  auto it = merged->find(name);
  if (it == merged->end()) {
    (*merged)[name] = value;
    return absl::OkStatus();
  }
  if (*it != value) {
    return Invalid(key, absl::StrCat("is given twice, ", it->dump(), " and ",
                                     value.dump()));
  }
  return absl::OkStatus();
}

// rope_theta, rope_scaling and rope_parameters as one map.
absl::StatusOr<Json> MergedRope(const Json& json) {
  Json merged = Json::object();
  if (const Json* theta = Lookup(json, "rope_theta")) {
    RETURN_IF_ERROR(Merge("rope_theta", *theta, &merged));
  }
  const Json* maps[] = {Lookup(json, "rope_scaling"), RopeParametersOf(json)};
  const char* names[] = {"rope_scaling", "rope_parameters"};
  for (int i = 0; i < 2; ++i) {
    if (maps[i] == nullptr) continue;
    if (!maps[i]->is_object()) return Invalid(names[i], "must be an object");
    for (auto it = maps[i]->begin(); it != maps[i]->end(); ++it) {
      if (it->is_null()) continue;
      RETURN_IF_ERROR(Merge(it.key(), *it, &merged));
    }
  }
  return merged;
}

// m(x) = 0.1 x ln(factor) + 1 (attention specification section 7.3).
double Mscale(double factor, double x) {
  return (kernels::YarnAttentionFactor(factor) - 1) * x + 1;
}

absl::Status ReadYarn(const Json& rope, int64_t max_positions,
                      kernels::RopeParams* out) {
  out->scaling = kernels::RopeScaling::kYarn;
  ASSIGN_OR_RETURN(
      out->original_positions,
      CountAt(rope, "original_max_position_embeddings", max_positions));
  if (out->original_positions < 1) {
    return Invalid("original_max_position_embeddings", "must be positive");
  }
  ASSIGN_OR_RETURN(out->factor, NumberAt(rope, "factor",
                                         static_cast<double>(max_positions) /
                                             out->original_positions));
  ASSIGN_OR_RETURN(out->beta_fast, NumberAt(rope, "beta_fast", 32));
  ASSIGN_OR_RETURN(out->beta_slow, NumberAt(rope, "beta_slow", 1));
  if (out->beta_fast <= 0 || out->beta_slow <= 0) {
    return Invalid("beta_fast", "and beta_slow must be positive");
  }
  ASSIGN_OR_RETURN(bool truncate, BoolAt(rope, "truncate", true));
  if (!truncate) return Unsupported("truncate", "false is not supported");
  ASSIGN_OR_RETURN(double mscale, NumberAt(rope, "mscale", 0));
  ASSIGN_OR_RETURN(double all_dim, NumberAt(rope, "mscale_all_dim", 0));
  const double fallback =
      mscale != 0 && all_dim != 0
          ? Mscale(out->factor, mscale) / Mscale(out->factor, all_dim)
          : kernels::YarnAttentionFactor(out->factor);
  ASSIGN_OR_RETURN(out->attention_factor,
                   NumberAt(rope, "attention_factor", fallback));
  return absl::OkStatus();
}

absl::Status ReadRope(const Json& json, int64_t max_positions,
                      kernels::RopeParams* out) {
  ASSIGN_OR_RETURN(Json rope, MergedRope(json));
  ASSIGN_OR_RETURN(out->base, NumberAt(rope, "rope_theta", 10000));
  const Json* kind = Lookup(rope, "rope_type");
  if (kind != nullptr && !kind->is_string()) {
    return Invalid("rope_type", "must be a string");
  }
  const std::string name = kind == nullptr ? "" : kind->get<std::string>();
  if (name.empty() || name == "default" || name == "none") {
    return absl::OkStatus();
  }
  if (name == "yarn") return ReadYarn(rope, max_positions, out);
  if (name == "linear") {
    out->scaling = kernels::RopeScaling::kLinear;
    ASSIGN_OR_RETURN(out->factor, NumberAt(rope, "factor", std::nullopt));
    return absl::OkStatus();
  }
  if (name != "llama3") {
    return Unsupported("rope_type",
                       absl::StrCat("\"", name, "\" is not supported"));
  }
  out->scaling = kernels::RopeScaling::kLlama3;
  ASSIGN_OR_RETURN(out->factor, NumberAt(rope, "factor", std::nullopt));
  ASSIGN_OR_RETURN(out->low_freq_factor,
                   NumberAt(rope, "low_freq_factor", std::nullopt));
  ASSIGN_OR_RETURN(out->high_freq_factor,
                   NumberAt(rope, "high_freq_factor", std::nullopt));
  ASSIGN_OR_RETURN(
      out->original_positions,
      CountAt(rope, "original_max_position_embeddings", std::nullopt));
  if (out->original_positions < 1 ||
      out->high_freq_factor <= out->low_freq_factor) {
    return Invalid("rope_scaling",
                   "needs original_max_position_embeddings >= 1 and "
                   "high_freq_factor > low_freq_factor");
  }
  return absl::OkStatus();
}

// Refuses what changes the computation and is not computed here.
absl::Status RefuseUnsupported(const Json& json, const Architecture& arch,
                               int64_t layers) {
  if (Lookup(json, "quantization_config") != nullptr) {
    return Unsupported("quantization_config", "is not supported");
  }
  if (const Json* act = Lookup(json, "hidden_act")) {
    if (!act->is_string() || act->get<std::string>() != "silu") {
      return Unsupported("hidden_act",
                         absl::StrCat("must be \"silu\", got ", act->dump()));
    }
  }
  ASSIGN_OR_RETURN(double partial, NumberAt(json, "partial_rotary_factor", 1));
  if (partial != 1) {
    return Unsupported("partial_rotary_factor",
                       absl::StrCat("must be 1, got ", partial));
  }
  if (const Json* types = Lookup(json, "layer_types")) {
    if (!types->is_array()) return Invalid("layer_types", "must be a list");
    for (const Json& type : *types) {
      if (!type.is_string() || type.get<std::string>() != "full_attention") {
        return Unsupported(
            "layer_types",
            absl::StrCat("must all be \"full_attention\", got ", type.dump()));
      }
    }
  }
  ASSIGN_OR_RETURN(int64_t window, CountAt(json, "sliding_window", 0));
  ASSIGN_OR_RETURN(
      bool use, BoolAt(json, "use_sliding_window", arch.window_without_switch));
  // Qwen's window concerns the layers from max_window_layers on.
  ASSIGN_OR_RETURN(int64_t first, CountAt(json, "max_window_layers",
                                          arch.window_without_switch ? 0 : 28));
  if (use && window > 0 && first < layers &&
      Lookup(json, "layer_types") == nullptr) {
    return Unsupported("sliding_window",
                       absl::StrCat(window,
                                    " is active; a sliding window is "
                                    "not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const Json& json, ModelConfig* c) {
  ASSIGN_OR_RETURN(c->vocab, CountAt(json, "vocab_size", std::nullopt));
  ASSIGN_OR_RETURN(c->hidden, CountAt(json, "hidden_size", std::nullopt));
  ASSIGN_OR_RETURN(c->layers, CountAt(json, "num_hidden_layers", std::nullopt));
  ASSIGN_OR_RETURN(c->heads,
                   CountAt(json, "num_attention_heads", std::nullopt));
  ASSIGN_OR_RETURN(c->kv_heads, CountAt(json, "num_key_value_heads", c->heads));
  ASSIGN_OR_RETURN(c->ffn, CountAt(json, "intermediate_size", std::nullopt));
  ASSIGN_OR_RETURN(c->max_positions,
                   CountAt(json, "max_position_embeddings", std::nullopt));
  if (c->heads < 1) return Invalid("num_attention_heads", "must be positive");
  if (Lookup(json, "head_dim") == nullptr && c->hidden % c->heads != 0) {
    return Invalid("hidden_size",
                   absl::StrCat(c->hidden, " is no multiple of ", c->heads,
                                " heads and head_dim is missing"));
  }
  ASSIGN_OR_RETURN(c->head_dim,
                   CountAt(json, "head_dim", c->hidden / c->heads));
  ASSIGN_OR_RETURN(double epsilon, NumberAt(json, "rms_norm_eps", 1e-6));
  c->norm_epsilon = static_cast<float>(epsilon);
  ASSIGN_OR_RETURN(c->tied_head, BoolAt(json, "tie_word_embeddings", false));
  return absl::OkStatus();
}

absl::Status ReadBiases(const Json& json, ModelConfig* c) {
  const Architecture& arch = *c->architecture;
  c->qkv_bias = arch.attention_biases == Biases::kQkv;
  if (arch.attention_biases == Biases::kAsStated) {
    ASSIGN_OR_RETURN(c->qkv_bias, BoolAt(json, "attention_bias", false));
    c->output_bias = c->qkv_bias;
  }
  if (arch.mlp_bias_possible) {
    ASSIGN_OR_RETURN(c->mlp_bias, BoolAt(json, "mlp_bias", false));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromJson(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError("config.json: not a JSON object");
  }
  ModelConfig config;
  ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(json));
  RETURN_IF_ERROR(ReadShape(json, &config));
  RETURN_IF_ERROR(RefuseUnsupported(json, *config.architecture, config.layers));
  RETURN_IF_ERROR(ReadBiases(json, &config));
  RETURN_IF_ERROR(ReadRope(json, config.max_positions, &config.rope));
  config.rope.rot = config.head_dim;
  config.rope_pairs = kernels::RopePairs::kHalf;
  ASSIGN_OR_RETURN(config.eos_ids, EosIdsFromJson(text));
  RETURN_IF_ERROR(CheckConfig(config));
  return config;
}

absl::StatusOr<std::vector<int64_t>> EosIdsFromJson(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError("not a JSON object");
  }
  std::vector<int64_t> ids;
  const Json* eos = Lookup(json, "eos_token_id");
  if (eos == nullptr) return ids;
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<double>() < 0 ||
        id.get<double>() > 1e9) {
      return absl::InvalidArgumentError(
          absl::StrCat("eos_token_id must be token ids, got ", eos->dump()));
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

}  // namespace sluice::worker
