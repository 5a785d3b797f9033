#include "router/text/tokenizer_config.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/text/json_field.h"

namespace sluice::router {
namespace {

// "text", {"content": "text", ...} or null.
absl::StatusOr<std::string> TokenField(const Json& config,
                                       absl::string_view key) {
  const Json* field = FindField(config, key);
  if (field != nullptr && field->is_object()) {
    return StringField(*field, "content", "");
  }
  return StringField(config, key, "");
}

// A template, or a list of {"name", "template"}.
absl::StatusOr<std::string> TemplateField(const Json& config) {
  const Json* field = FindField(config, "chat_template");
  if (field == nullptr || !field->is_array()) {
    return StringField(config, "chat_template", "");
  }
  for (const Json& entry : *field) {
    ASSIGN_OR_RETURN(const std::string name, StringField(entry, "name", ""));
    if (name == "default") return StringField(entry, "template", "");
  }
  return std::string();
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view json) {
  TokenizerConfig out;
  if (json.empty()) return out;
  ASSIGN_OR_RETURN(const Json config, ParseJson(json, "tokenizer_config.json"));
  if (!config.is_object()) {
    return absl::InvalidArgumentError("tokenizer_config.json is not an object");
  }
  ASSIGN_OR_RETURN(out.bos_token, TokenField(config, "bos_token"));
  ASSIGN_OR_RETURN(out.eos_token, TokenField(config, "eos_token"));
  ASSIGN_OR_RETURN(out.unk_token, TokenField(config, "unk_token"));
  ASSIGN_OR_RETURN(out.add_bos_token,
                   BoolField(config, "add_bos_token", false));
  ASSIGN_OR_RETURN(out.add_eos_token,
                   BoolField(config, "add_eos_token", false));
  ASSIGN_OR_RETURN(out.chat_template, TemplateField(config));
  return out;
}

absl::StatusOr<std::vector<int32_t>> ParseGenerationEosIds(
    absl::string_view json) {
  std::vector<int32_t> ids;
  if (json.empty()) return ids;
  ASSIGN_OR_RETURN(const Json config,
                   ParseJson(json, "generation_config.json"));
  const Json* field = FindField(config, "eos_token_id");
  if (field == nullptr) return ids;
  if (!field->is_array()) {
    ASSIGN_OR_RETURN(const int32_t id, AsInt(*field, "eos_token_id"));
    return std::vector<int32_t>{id};
  }
  for (const Json& entry : *field) {
    ASSIGN_OR_RETURN(const int32_t id, AsInt(entry, "eos_token_id"));
    ids.push_back(id);
  }
  return ids;
}

}  // namespace sluice::router
