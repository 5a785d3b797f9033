#include "router/flow/prepare.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "proto/sampling_check.h"
#include "router/flow/chat_messages.h"

namespace sluice::router {
namespace {

constexpr char kFieldPayload[] = "sluice.field";
constexpr size_t kMaxSaltBytes = 256;
constexpr size_t kMaxLabels = 16;
constexpr size_t kMaxLabelBytes = 64;
constexpr size_t kMaxHintBytes = 256;
constexpr size_t kMaxAvoided = 64;
// At most, per log probability and per position.
constexpr uint64_t kProtoLogprobBytes = 13;
constexpr uint64_t kProtoPositionBytes = 4;

absl::Status Blame(absl::string_view field, absl::Status status) {
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

absl::Status Unsupported(absl::string_view field) {
  return Blame(field, WithReason(absl::UnimplementedError(
                                     absl::StrCat(field, " is not supported")),
                                 "UNSUPPORTED_PARAMETER"));
}

absl::Status CheckFeatures(const v1::GenerateRequest& request) {
  const v1::SamplingParams& sampling = request.sampling();
  if (sampling.constraint_case() != v1::SamplingParams::CONSTRAINT_NOT_SET) {
    return Unsupported("sampling.constraint");
  }
  if (sampling.has_thinking_temperature()) {
    return Unsupported("sampling.thinking_temperature");
  }
  if (request.speculation().mode() == v1::Speculation::ON) {
    return Unsupported("speculation.mode");
  }
  if (request.speculation().max_draft_tokens() > 0) {
    return Unsupported("speculation.max_draft_tokens");
  }
  if (!request.speculation().rule().empty()) {
    return Unsupported("speculation.rule");
  }
  if (request.resume().enabled()) return Unsupported("resume.enabled");
  if (request.resume().has_detach_ttl_ms()) {
    return Unsupported("resume.detach_ttl_ms");
  }
  if (request.has_chat()) {
    if (!request.chat().tools_json().empty()) {
      return Unsupported("chat.tools_json");
    }
    if (!request.chat().tool_choice_json().empty()) {
      return Unsupported("chat.tool_choice_json");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHints(const v1::RoutingHints& hints) {
  for (const std::string* text :
       {&hints.session_id(), &hints.tenant(), &hints.pin_instance()}) {
    if (text->size() > kMaxHintBytes) {
      return Blame("routing", absl::InvalidArgumentError(absl::StrCat(
                                  "a routing hint has ", text->size(),
                                  " bytes, limit ", kMaxHintBytes)));
    }
  }
  if (hints.avoid_instances_size() > static_cast<int>(kMaxAvoided)) {
    return Blame(
        "routing.avoid_instances",
        absl::InvalidArgumentError(absl::StrCat(
            "routing.avoid_instances has ", hints.avoid_instances_size(),
            " entries, limit ", kMaxAvoided)));
  }
  if (!v1::RoutingHints::Placement_IsValid(hints.placement())) {
    return Blame("routing.placement",
                 absl::InvalidArgumentError(absl::StrCat(
                     "routing.placement ", static_cast<int>(hints.placement()),
                     " is unknown")));
  }
  return absl::OkStatus();
}

absl::Status CheckLabels(const v1::GenerateRequest& request) {
  if (request.labels().size() > kMaxLabels) {
    return Blame("labels", absl::InvalidArgumentError(absl::StrCat(
                               "labels has ", request.labels().size(),
                               " entries, limit ", kMaxLabels)));
  }
  for (const auto& [key, value] : request.labels()) {
    if (key.empty() || key.size() > kMaxLabelBytes ||
        value.size() > kMaxLabelBytes) {
      return Blame("labels", absl::InvalidArgumentError(absl::StrCat(
                                 "a label's key and value have at most ",
                                 kMaxLabelBytes, " bytes")));
    }
  }
  return absl::OkStatus();
}

struct Prompt {
  std::vector<uint32_t> ids;
  uint64_t unencodable_bytes = 0;
  int64_t template_us = -1;
  int64_t tokenize_us = -1;
};

absl::StatusOr<Prompt> PromptFromTokens(const v1::TokenIds& tokens,
                                        const ServedModel& model) {
  Prompt prompt;
  prompt.ids.assign(tokens.ids().begin(), tokens.ids().end());
  for (uint32_t id : prompt.ids) {
    if (id >= model.vocab()) {
      return Blame("tokens", absl::InvalidArgumentError(absl::StrCat(
                                 "prompt token ", id, " is outside [0, ",
                                 model.vocab(), ")")));
    }
  }
  return prompt;
}

absl::StatusOr<Prompt> PromptFromText(const std::string& text,
                                      const ServedModel& model,
                                      EncodeOptions options,
                                      const Clock& clock) {
  const int64_t begin_us = clock.NowMicros();
  absl::StatusOr<Encoding> encoding = model.Tokenize(text, options);
  if (!encoding.ok()) return Blame("prompt", encoding.status());
  Prompt prompt;
  prompt.ids.assign(encoding->ids.begin(), encoding->ids.end());
  prompt.unencodable_bytes = encoding->unencodable_bytes;
  prompt.tokenize_us = clock.NowMicros() - begin_us;
  return prompt;
}

absl::StatusOr<Prompt> PromptFromChat(const GenerateCall& call,
                                      const ServedModel& model,
                                      const Clock& clock) {
  const v1::ChatInput& chat = call.request.chat();
  const int64_t begin_us = clock.NowMicros();
  absl::StatusOr<std::string> messages =
      NormalizeMessages(chat.messages_json());
  if (!messages.ok()) return Blame("messages", messages.status());
  absl::StatusOr<std::string> text =
      model.RenderChat({.messages_json = *std::move(messages),
                        .kwargs_json = chat.template_kwargs_json(),
                        .add_generation_prompt = call.add_generation_prompt &&
                                                 !call.continue_final_message,
                        .continue_final_message = call.continue_final_message,
                        .now_unix_seconds = clock.UnixMicros() / 1'000'000});
  if (!text.ok()) return Blame("messages", text.status());
  const int64_t template_us = clock.NowMicros() - begin_us;
  ASSIGN_OR_RETURN(
      Prompt prompt,
      PromptFromText(*text, model,
                     {.add_special = call.add_special_tokens.value_or(false),
                      .parse_special = true},
                     clock));
  prompt.template_us = template_us;
  return prompt;
}

absl::StatusOr<Prompt> MakePrompt(const GenerateCall& call,
                                  const ServedModel& model,
                                  const Clock& clock) {
  switch (call.request.input_case()) {
    case v1::GenerateRequest::kTokens:
      return PromptFromTokens(call.request.tokens(), model);
    case v1::GenerateRequest::kText:
      return PromptFromText(
          call.request.text(), model,
          {.add_special = call.add_special_tokens.value_or(true),
           .parse_special = true},
          clock);
    case v1::GenerateRequest::kChat:
      return PromptFromChat(call, model, clock);
    default:
      return absl::InvalidArgumentError(
          "one of tokens, text and chat must be given");
  }
}

absl::Status Truncate(const v1::SamplingParams& sampling, Prompt& prompt) {
  if (!sampling.has_truncate_prompt_tokens()) return absl::OkStatus();
  const int32_t keep = sampling.truncate_prompt_tokens();
  if (keep < 1) {
    return Blame("truncate_prompt_tokens",
                 absl::InvalidArgumentError(absl::StrCat(
                     "truncate_prompt_tokens must be positive, got ", keep)));
  }
  if (prompt.ids.size() > static_cast<size_t>(keep)) {
    prompt.ids.erase(prompt.ids.begin(), prompt.ids.end() - keep);
  }
  return absl::OkStatus();
}

// Fills max_tokens in. The context holds the prompt and what follows it.
absl::Status FitContext(const ServedModel& model, size_t prompt_tokens,
                        v1::SamplingParams& sampling) {
  const uint64_t context = model.max_context();
  const auto too_long = [&](absl::string_view field, uint64_t asked) {
    return Blame(field,
                 WithReason(absl::InvalidArgumentError(absl::StrCat(
                                "the model's context is ", context,
                                " tokens, but the prompt has ", prompt_tokens,
                                " and ", asked, " more are asked for")),
                            "CONTEXT_LENGTH_EXCEEDED"));
  };
  if (prompt_tokens >= context) return too_long("prompt", 1);
  const uint64_t room = context - prompt_tokens;
  if (!sampling.has_max_tokens()) {
    sampling.set_max_tokens(static_cast<uint32_t>(room));
  } else if (sampling.max_tokens() > room) {
    return too_long("max_tokens", sampling.max_tokens());
  }
  return absl::OkStatus();
}

// They come as one piece before the first token. Refused before the prompt is
// computed, not after.
absl::Status CheckPromptLogprobs(const GenerateCall& call, size_t prompt_tokens,
                                 const v1::SamplingParams& sampling) {
  if (!sampling.has_prompt_logprobs() || call.max_prompt_logprobs_bytes == 0) {
    return absl::OkStatus();
  }
  // OpenAI answers repeat them in each choice, as JSON.
  const bool json = call.surface == Surface::kOpenAi;
  const uint64_t copies = json && sampling.has_n() ? sampling.n() : 1;
  const uint64_t entries =
      prompt_tokens * (static_cast<uint64_t>(sampling.prompt_logprobs()) + 1);
  const uint64_t bytes =
      copies * (json ? kJsonLogprobBytes * entries
                     : kProtoLogprobBytes * entries +
                           kProtoPositionBytes * prompt_tokens);
  if (bytes <= call.max_prompt_logprobs_bytes) return absl::OkStatus();
  return Blame("prompt_logprobs",
               absl::InvalidArgumentError(absl::StrCat(
                   "prompt_logprobs of ", prompt_tokens,
                   " prompt tokens would take about ", bytes, " bytes, limit ",
                   call.max_prompt_logprobs_bytes)));
}

void FillDefaults(const GenerationDefaults& defaults,
                  v1::SamplingParams& sampling) {
  if (!sampling.has_temperature()) {
    sampling.set_temperature(defaults.temperature.value_or(1));
  }
  if (!sampling.has_top_p()) sampling.set_top_p(defaults.top_p.value_or(1));
  if (!sampling.has_top_k()) {
    sampling.set_top_k(static_cast<uint32_t>(defaults.top_k.value_or(0)));
  }
  if (!sampling.has_min_p()) sampling.set_min_p(defaults.min_p.value_or(0));
  if (!sampling.has_repetition_penalty()) {
    sampling.set_repetition_penalty(defaults.repetition_penalty.value_or(1));
  }
}

std::shared_ptr<const TextOptions> TextOptionsFor(
    const v1::SamplingParams& sampling, const ServedModel& model) {
  auto text = std::make_shared<TextOptions>();
  text->tokenizer = &model.tokenizer();
  text->stop.stops.assign(sampling.stop().begin(), sampling.stop().end());
  text->stop.include_stop = sampling.include_stop_str_in_output();
  text->stop.min_tokens = sampling.min_tokens();
  text->skip_special_tokens =
      !sampling.has_skip_special_tokens() || sampling.skip_special_tokens();
  if (!sampling.ignore_eos()) {
    for (int32_t id : model.tokenizer().eos_ids()) {
      text->silent_ids.insert(static_cast<uint32_t>(id));
    }
  }
  text->silent_ids.insert(sampling.stop_token_ids().begin(),
                          sampling.stop_token_ids().end());
  return text;
}

}  // namespace

bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  c == '.' || c == '_' || c == '-';
         });
}

std::string BlamedField(const absl::Status& status) {
  const auto field = status.GetPayload(kFieldPayload);
  return field.has_value() ? std::string(*field) : std::string();
}

absl::Status CheckCall(const GenerateCall& call) {
  const v1::GenerateRequest& request = call.request;
  if (!request.request_id().empty() && !IsRequestId(request.request_id())) {
    return Blame("request_id",
                 absl::InvalidArgumentError(
                     "request_id must be 1..128 of [A-Za-z0-9._-]"));
  }
  if (!v1::OutputForm_IsValid(request.output())) {
    return Blame("output", absl::InvalidArgumentError(absl::StrCat(
                               "output ", static_cast<int>(request.output()),
                               " is unknown")));
  }
  if (request.cache_salt().size() > kMaxSaltBytes) {
    return Blame("cache_salt",
                 absl::InvalidArgumentError(absl::StrCat(
                     "cache_salt has ", request.cache_salt().size(),
                     " bytes, limit ", kMaxSaltBytes)));
  }
  if (request.priority() < -100 || request.priority() > 100) {
    return Blame("priority", absl::InvalidArgumentError(absl::StrCat(
                                 "priority must be in [-100, 100], got ",
                                 request.priority())));
  }
  RETURN_IF_ERROR(CheckHints(request.routing()));
  RETURN_IF_ERROR(CheckLabels(request));
  return CheckFeatures(request);
}

absl::StatusOr<PreparedRequest> Prepare(
    const GenerateCall& call, std::shared_ptr<const ServedModel> model,
    const Clock& clock) {
  v1::SamplingParams sampling = call.request.sampling();
  if (absl::Status status = CheckSampling(
          sampling,
          {.vocab = model->vocab(), .model_length = model->max_context()});
      !status.ok()) {
    const std::string text(status.message());
    return Blame(text.substr(0, text.find(' ')), std::move(status));
  }
  ASSIGN_OR_RETURN(Prompt prompt, MakePrompt(call, *model, clock));
  RETURN_IF_ERROR(Truncate(sampling, prompt));
  if (prompt.ids.empty()) {
    return Blame("prompt", absl::InvalidArgumentError(
                               "prompt must hold at least one token"));
  }
  RETURN_IF_ERROR(FitContext(*model, prompt.ids.size(), sampling));
  RETURN_IF_ERROR(CheckPromptLogprobs(call, prompt.ids.size(), sampling));
  FillDefaults(model->defaults(), sampling);
  PreparedRequest prepared;
  prepared.text = TextOptionsFor(sampling, *model);
  prepared.stops = prepared.text->stop.stops;
  if (auto trial = ChoiceText::Create(prepared.text); !trial.ok()) {
    return Blame("stop", trial.status());
  }
  prepared.num_choices = sampling.has_n() ? sampling.n() : 1;
  // A missing seed is drawn once, so that every attempt repeats the stream.
  prepared.seed = sampling.has_seed() ? static_cast<uint64_t>(sampling.seed())
                                      : RandomU64();
  sampling.clear_seed();
  sampling.clear_stop();
  sampling.clear_include_stop_str_in_output();
  sampling.clear_truncate_prompt_tokens();
  sampling.clear_skip_special_tokens();
  sampling.clear_spaces_between_special_tokens();
  prepared.sampling = std::move(sampling);
  prepared.model = std::move(model);
  prepared.prompt_ids = std::move(prompt.ids);
  prepared.unencodable_bytes = prompt.unencodable_bytes;
  prepared.template_us = prompt.template_us;
  prepared.tokenize_us = prompt.tokenize_us;
  return prepared;
}

}  // namespace sluice::router
