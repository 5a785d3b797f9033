#include "router/cluster/served_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strict_json.h"
#include "router/text/detokenizer.h"
#include "router/text/tokenizer_factory.h"
#include "router/text/tokenizer_spec.h"

namespace sluice::router {
namespace {

int32_t IdOrNone(bool has, uint32_t id) {
  return has && id <= INT32_MAX ? static_cast<int32_t>(id) : -1;
}

absl::StatusOr<TokenizerSpec> SpecOf(const v1::ModelCard& card) {
  const v1::TokenizerCard& from = card.tokenizer();
  TokenizerSpec spec;
  if (from.kind() == "tokenizer_json") {
    spec.kind = TokenizerKind::kTokenizerJson;
  } else if (from.kind() == "gguf" && from.gguf_model() == "gpt2") {
    spec.kind = TokenizerKind::kBpe;
  } else if (from.kind() == "gguf" && from.gguf_model() == "llama") {
    spec.kind = TokenizerKind::kSpm;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer `", from.kind(),
                                                   "` / `", from.gguf_model(),
                                                   "` is not supported"));
  }
  spec.tokens.assign(from.tokens().begin(), from.tokens().end());
  spec.scores.assign(from.scores().begin(), from.scores().end());
  spec.types.assign(from.token_types().begin(), from.token_types().end());
  spec.merges.assign(from.merges().begin(), from.merges().end());
  spec.pre = from.gguf_pre();
  spec.add_bos = from.add_bos();
  spec.add_eos = from.add_eos();
  // The GGUF key's default for SPM is true.
  spec.add_space_prefix = from.has_add_space_prefix()
                              ? from.add_space_prefix()
                              : spec.kind == TokenizerKind::kSpm;
  spec.bos_id = IdOrNone(from.has_bos_id(), from.bos_id());
  spec.eos_id = IdOrNone(from.has_eos_id(), from.eos_id());
  spec.unk_id = IdOrNone(from.has_unk_id(), from.unk_id());
  spec.pad_id = IdOrNone(from.has_pad_id(), from.pad_id());
  for (uint32_t id : card.eos_token_ids()) {
    spec.eos_ids.push_back(IdOrNone(true, id));
  }
  spec.tokenizer_json = from.tokenizer_json();
  spec.tokenizer_config_json = from.tokenizer_config_json();
  spec.generation_config_json = card.generation_config_json();
  return spec;
}

absl::StatusOr<GenerationDefaults> ParseDefaults(const std::string& text) {
  GenerationDefaults defaults;
  if (text.empty()) return defaults;
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseStrictJson(text));
  const auto number = [&](const char* key) -> std::optional<double> {
    if (!json.is_object() || !json.contains(key)) return std::nullopt;
    const nlohmann::json& value = json[key];
    if (!value.is_number()) return std::nullopt;
    return value.get<double>();
  };
  const auto real = [&](const char* key) -> std::optional<float> {
    const std::optional<double> value = number(key);
    if (!value.has_value()) return std::nullopt;
    return static_cast<float>(*value);
  };
  defaults.temperature = real("temperature");
  defaults.top_p = real("top_p");
  defaults.min_p = real("min_p");
  defaults.repetition_penalty = real("repetition_penalty");
  if (const auto top_k = number("top_k");
      top_k.has_value() && *top_k >= 0 && *top_k <= INT32_MAX) {
    defaults.top_k = static_cast<int32_t>(*top_k);
  }
  return defaults;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServedModel>> ServedModel::FromCard(
    const v1::ModelCard& card) {
  if (card.model().empty() || card.model().size() > 256) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model name has ", card.model().size(), " bytes, must be 1..256"));
  }
  if (card.model_digest().size() != 32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model_digest has ", card.model_digest().size(), " bytes, must be 32"));
  }
  if (card.max_context() == 0 || card.vocab() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context ", card.max_context(), " and vocab ",
                     card.vocab(), " must not be 0"));
  }
  std::shared_ptr<ServedModel> model(new ServedModel());
  model->name_ = card.model();
  model->digest_ = card.model_digest();
  model->architecture_ = card.architecture();
  model->max_context_ = card.max_context();
  model->vocab_ = card.vocab();
  ASSIGN_OR_RETURN(model->defaults_,
                   ParseDefaults(card.generation_config_json()));
  ASSIGN_OR_RETURN(const TokenizerSpec spec, SpecOf(card));
  ASSIGN_OR_RETURN(model->tokenizer_, MakeTokenizer(spec));
  if (!card.chat_template().empty()) {
    const Tokenizer& tokenizer = *model->tokenizer_;
    ASSIGN_OR_RETURN(
        ChatTemplate chat_template,
        ChatTemplate::Create(card.chat_template(),
                             tokenizer.TokenBytes(tokenizer.bos_id()),
                             tokenizer.TokenBytes(tokenizer.eos_id())));
    model->template_ =
        std::make_shared<const ChatTemplate>(std::move(chat_template));
  }
  return std::shared_ptr<const ServedModel>(std::move(model));
}

absl::StatusOr<std::string> ServedModel::Detokenize(
    absl::Span<const uint32_t> ids) const {
  std::vector<int32_t> tokens;
  tokens.reserve(ids.size());
  for (uint32_t id : ids) {
    if (id >= vocab_) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", id, " is outside [0, ", vocab_, ")"));
    }
    tokens.push_back(static_cast<int32_t>(id));
  }
  return router::Detokenize(
      *tokenizer_, tokens,
      {.skip_special_tokens = false, .at_text_start = true});
}

absl::StatusOr<std::string> ServedModel::RenderChat(
    const ChatInput& chat) const {
  if (template_ == nullptr) {
    return absl::InvalidArgumentError("the model has no chat template");
  }
  return template_->Render(chat);
}

}  // namespace sluice::router
