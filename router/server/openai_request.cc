#include "router/server/openai_request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/sha256.h"
#include "router/server/openai_body.h"

namespace sluice::router {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kDefaultCompletionTokens = 16;
constexpr size_t kMaxPrompts = 256;
constexpr size_t kMaxSequences = 512;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopTokens = 128;
constexpr size_t kMaxBias = 1024;
constexpr size_t kMaxMetadata = 16;

void ReadStops(BodyReader& body, v1::SamplingParams& sampling) {
  constexpr char kText[] =
      "stop must be at most 16 non-empty strings of at most 256 bytes";
  const Json* stop = body.Find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    sampling.add_stop(stop->get<std::string>());
    return;
  }
  if (!stop->is_array()) {
    body.Fail(BadRequest("stop must be a string or a list of strings", "stop"));
    return;
  }
  for (const Json& item : *stop) {
    if (!item.is_string() || stop->size() > kMaxStops) {
      body.Fail(BadRequest(kText, "stop"));
      return;
    }
    sampling.add_stop(item.get<std::string>());
  }
}

void ReadStopTokens(BodyReader& body, v1::SamplingParams& sampling) {
  const Json* ids = body.Find("stop_token_ids");
  if (ids == nullptr) return;
  if (!ids->is_array()) {
    body.Fail(BadRequest("stop_token_ids must be a list of integers",
                         "stop_token_ids"));
    return;
  }
  if (ids->size() > kMaxStopTokens) {
    body.Fail(BadRequest(absl::StrFormat("stop_token_ids has %d entries, "
                                         "limit %d",
                                         ids->size(), kMaxStopTokens),
                         "stop_token_ids"));
    return;
  }
  for (const Json& id : *ids) {
    const std::optional<uint32_t> token = TokenIdOf(id);
    if (!token.has_value()) {
      body.Fail(BadRequest(
          absl::StrCat("stop token ", id.dump(), " is not a token id"),
          "stop_token_ids"));
      return;
    }
    sampling.add_stop_token_ids(*token);
  }
}

void ReadBias(BodyReader& body, v1::SamplingParams& sampling) {
  const Json* bias = body.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) {
    body.Fail(BadRequest("logit_bias must be an object", "logit_bias"));
    return;
  }
  if (bias->size() > kMaxBias) {
    body.Fail(BadRequest(absl::StrFormat("logit_bias has %d entries, limit %d",
                                         bias->size(), kMaxBias),
                         "logit_bias"));
    return;
  }
  for (const auto& [key, value] : bias->items()) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(key, &token)) {
      body.Fail(BadRequest(
          absl::StrCat("logit_bias token \"", key, "\" is not a token id"),
          "logit_bias"));
      return;
    }
    if (!value.is_number()) {
      body.Fail(BadRequest("logit_bias must be a number", "logit_bias"));
      return;
    }
    (*sampling.mutable_logit_bias())[token] = value.get<float>();
  }
}

// Sampling fields that chat and completions share.
void ReadSampling(BodyReader& body, v1::SamplingParams& sampling) {
  if (auto v = body.Number("temperature")) sampling.set_temperature(*v);
  if (auto v = body.Number("top_p")) sampling.set_top_p(*v);
  if (auto v = body.IntegerIn("top_k", -1, INT32_MAX,
                              "top_k must be -1, 0 or positive")) {
    sampling.set_top_k(static_cast<uint32_t>(std::max<int64_t>(0, *v)));
  }
  if (auto v = body.Number("min_p")) sampling.set_min_p(*v);
  if (auto v = body.Number("frequency_penalty")) {
    sampling.set_frequency_penalty(*v);
  }
  if (auto v = body.Number("presence_penalty")) {
    sampling.set_presence_penalty(*v);
  }
  if (auto v = body.Number("repetition_penalty")) {
    sampling.set_repetition_penalty(*v);
  }
  if (auto v = body.Number("thinking_temperature")) {
    sampling.set_thinking_temperature(*v);
  }
  if (auto v = body.IntegerIn("min_tokens", 0, INT32_MAX,
                              "min_tokens must not be negative")) {
    sampling.set_min_tokens(static_cast<uint32_t>(*v));
  }
  if (auto v = body.Integer("seed")) sampling.set_seed(*v);
  if (auto v = body.Bool("ignore_eos")) sampling.set_ignore_eos(*v);
  if (auto v = body.Bool("include_stop_str_in_output")) {
    sampling.set_include_stop_str_in_output(*v);
  }
  if (auto v = body.Bool("skip_special_tokens")) {
    sampling.set_skip_special_tokens(*v);
  }
  body.Only("spaces_between_special_tokens", true);
  if (auto v = body.IntegerIn("truncate_prompt_tokens", 1, INT32_MAX,
                              "truncate_prompt_tokens must be positive")) {
    sampling.set_truncate_prompt_tokens(static_cast<int32_t>(*v));
  }
  if (auto v = body.IntegerIn("prompt_logprobs", 0, 20,
                              "prompt_logprobs must be in [0, 20]")) {
    sampling.set_prompt_logprobs(static_cast<int32_t>(*v));
  }
  ReadStops(body, sampling);
  ReadStopTokens(body, sampling);
  ReadBias(body, sampling);
}

void ReadStreamOptions(BodyReader& body, std::optional<HttpError>& error,
                       OpenAiRequest& request) {
  request.stream = body.Bool("stream").value_or(false);
  const Json* options = body.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) {
    body.Fail(BadRequest("stream_options must be an object", "stream_options"));
    return;
  }
  if (!request.stream) {
    body.Fail(BadRequest("stream_options needs stream", "stream_options"));
    return;
  }
  BodyReader reader(*options, "stream_options.", error);
  request.include_usage = reader.Bool("include_usage").value_or(false);
  request.continuous_usage =
      reader.Bool("continuous_usage_stats").value_or(false);
  reader.Only("include_obfuscation", false);
  reader.Finish({}, nullptr);
}

void ReadServiceTier(BodyReader& body, OpenAiRequest& request,
                     v1::GenerateRequest& generate) {
  std::optional<int64_t> priority =
      body.IntegerIn("priority", -100, 100, "priority must be in [-100, 100]");
  if (auto tier = body.String("service_tier")) {
    int64_t of_tier = 0;
    if (*tier == "flex") {
      of_tier = 10;
    } else if (*tier == "priority") {
      of_tier = -10;
    } else if (*tier != "auto" && *tier != "default") {
      body.Fail(BadRequest(
          absl::StrCat("service_tier must be auto, default, flex or priority, "
                       "got ",
                       *tier),
          "service_tier", "unsupported_parameter"));
    }
    request.service_tier = *tier;
    if (!priority.has_value()) priority = of_tier;
  }
  if (priority.has_value()) {
    generate.set_priority(static_cast<int32_t>(*priority));
  }
}

// Logged as one hash: the content is the client's own.
void ReadMetadata(BodyReader& body, GenerateCall& call) {
  const Json* metadata = body.Find("metadata");
  if (metadata == nullptr) return;
  if (!metadata->is_object() || metadata->size() > kMaxMetadata) {
    body.Fail(BadRequest("metadata must be an object of at most 16 pairs",
                         "metadata"));
    return;
  }
  for (const auto& [key, value] : metadata->items()) {
    if (!value.is_string()) {
      body.Fail(BadRequest(absl::StrCat("metadata.", key, " must be a string"),
                           "metadata"));
      return;
    }
  }
  (*call.request.mutable_labels())["metadata_sha256"] =
      ToHex(Sha256Of(metadata->dump()));
}

void ReadPlacement(BodyReader& reader, v1::RoutingHints& routing) {
  const std::optional<std::string> placement = reader.String("placement");
  if (!placement.has_value() || *placement == "auto") return;
  if (*placement == "aggregated") {
    routing.set_placement(v1::RoutingHints::AGGREGATED);
  } else if (*placement == "disaggregated") {
    routing.set_placement(v1::RoutingHints::DISAGGREGATED);
  } else {
    reader.Fail(
        BadRequest(absl::StrCat("sluice.placement must be auto, aggregated or "
                                "disaggregated, got ",
                                *placement),
                   "sluice.placement"));
  }
}

// The extension object {"sluice": {...}}.
void ReadSluice(BodyReader& body, std::optional<HttpError>& error,
                OpenAiRequest& request, v1::GenerateRequest& generate) {
  const Json* object = body.Find("sluice");
  if (object == nullptr) return;
  if (!object->is_object()) {
    body.Fail(BadRequest("sluice must be an object", "sluice"));
    return;
  }
  BodyReader reader(*object, "sluice.", error);
  reader.Only("resumable", false);
  reader.Unsupported("detach_ttl_ms");
  if (const Json* speculation = reader.Find("speculation")) {
    if (!speculation->is_object()) {
      reader.Fail(BadRequest("sluice.speculation must be an object",
                             "sluice.speculation"));
      return;
    }
    BodyReader inner(*speculation, "sluice.speculation.", error);
    inner.Only("enabled", false);
    inner.Only("max_draft_tokens", 0);
    inner.Unsupported("rule");
    inner.Finish({}, nullptr);
  }
  if (auto v = reader.String("session_id")) {
    generate.mutable_routing()->set_session_id(*v);
  }
  ReadPlacement(reader, *generate.mutable_routing());
  if (auto v = reader.IntegerIn("ttft_deadline_ms", 1, UINT32_MAX,
                                "sluice.ttft_deadline_ms must be positive")) {
    generate.set_ttft_deadline_ms(static_cast<uint32_t>(*v));
  }
  if (auto v = reader.Bool("timing")) request.timing = *v;
  if (auto v = reader.Bool("allow_numerics_change")) {
    generate.mutable_resume()->set_allow_numerics_change(*v);
  }
  reader.Finish({}, nullptr);
}

// Everything that chat and completions share but prompt and limits.
void ReadShared(BodyReader& body, std::optional<HttpError>& error,
                OpenAiRequest& request, GenerateCall& call) {
  v1::GenerateRequest& generate = call.request;
  if (auto v = body.String("model")) {
    request.model = *v;
    generate.set_model(*v);
  } else {
    body.Fail(BadRequest("model is required", "model"));
  }
  ReadStreamOptions(body, error, request);
  call.stream = request.stream;
  call.surface = Surface::kOpenAi;
  call.max_prompt_logprobs_bytes = kMaxGatheredBytes;
  if (!request.stream) call.max_answer_bytes = kMaxGatheredBytes;
  if (auto v = body.IntegerIn("n", 1, 128, "n must be in [1, 128]")) {
    request.n = static_cast<uint32_t>(*v);
    generate.mutable_sampling()->set_n(request.n);
  }
  ReadSampling(body, *generate.mutable_sampling());
  request.prompt_logprobs = generate.sampling().has_prompt_logprobs();
  if (auto v = body.String("user")) call.user_hash = ToHex(Sha256Of(*v));
  if (auto v = body.String("cache_salt")) generate.set_cache_salt(*v);
  request.return_token_ids = body.Bool("return_token_ids").value_or(false);
  request.tokens_as_token_ids =
      body.Bool("return_tokens_as_token_ids").value_or(false);
  if (auto v = body.Bool("add_special_tokens")) call.add_special_tokens = *v;
  ReadServiceTier(body, request, generate);
  ReadSluice(body, error, request, generate);
  generate.set_output(v1::BOTH);
  generate.set_include_timing(true);
}

// Fields that this build refuses, and those that have one legal value.
void RefuseShared(BodyReader& body) {
  body.Only("store", false);
  body.Only("use_beam_search", false);
  body.Only("length_penalty", 1.0);
  body.Only("no_stop_trim", false);
  body.Only("return_hidden_states", false);
  if (const Json* format = body.Find("response_format")) {
    if (*format != Json{{"type", "text"}}) {
      body.Fail(BadRequest("response_format is not supported",
                           "response_format", "unsupported_parameter"));
    }
  }
  for (const char* name :
       {"structured_outputs", "audio", "function_call", "functions",
        "prediction", "web_search_options", "allowed_token_ids", "bad_words",
        "chat_template", "logits_processors", "kv_transfer_params",
        "vllm_xargs", "prompt_embeds", "mm_processor_kwargs"}) {
    body.Unsupported(name);
  }
}

void SetMaxTokens(BodyReader& body, std::optional<int64_t> max_tokens,
                  v1::SamplingParams& sampling, const char* name) {
  if (!max_tokens.has_value()) return;
  if (*max_tokens < 1 || *max_tokens > INT32_MAX) {
    body.Fail(BadRequest(
        absl::StrCat("max_tokens must be positive, got ", *max_tokens), name));
    return;
  }
  sampling.set_max_tokens(static_cast<uint32_t>(*max_tokens));
}

// Of chat only: who asks, and what for.
void ReadChatLabels(BodyReader& body, GenerateCall& call) {
  if (auto v = body.String("safety_identifier")) {
    call.user_hash = ToHex(Sha256Of(*v));
  }
  ReadMetadata(body, call);
  if (auto v = body.String("prompt_cache_key")) {
    call.request.mutable_routing()->set_session_id(*v);
  }
}

void ReadChatLimits(BodyReader& body, v1::SamplingParams& sampling) {
  const std::optional<int64_t> old_limit = body.Integer("max_tokens");
  const std::optional<int64_t> limit = body.Integer("max_completion_tokens");
  if (old_limit.has_value() && limit.has_value() && *old_limit != *limit) {
    body.Fail(BadRequest(
        absl::StrCat("max_tokens ", *old_limit, " and max_completion_tokens ",
                     *limit, " differ"),
        "max_completion_tokens"));
    return;
  }
  SetMaxTokens(body, limit.has_value() ? limit : old_limit, sampling,
               limit.has_value() ? "max_completion_tokens" : "max_tokens");
}

void ReadChatLogprobs(BodyReader& body, OpenAiRequest& request,
                      v1::SamplingParams& sampling) {
  request.logprobs = body.Bool("logprobs").value_or(false);
  const std::optional<int64_t> top =
      body.IntegerIn("top_logprobs", 0, 20, "top_logprobs must be in [0, 20]");
  if (top.has_value() && *top > 0 && !request.logprobs) {
    body.Fail(BadRequest("top_logprobs needs logprobs", "top_logprobs"));
    return;
  }
  if (!request.logprobs) return;
  request.top_logprobs = static_cast<uint32_t>(top.value_or(0));
  sampling.set_logprobs(static_cast<int32_t>(request.top_logprobs));
}

void ReadTemplateFields(BodyReader& body, Json& kwargs, GenerateCall& call) {
  if (const Json* value = body.Find("chat_template_kwargs")) {
    if (value->is_object()) {
      kwargs = *value;
    } else {
      body.Fail(BadRequest("chat_template_kwargs must be an object",
                           "chat_template_kwargs"));
    }
  }
  call.add_generation_prompt =
      body.Bool("add_generation_prompt").value_or(true);
  call.continue_final_message =
      body.Bool("continue_final_message").value_or(false);
  body.Only("verbosity", "medium");
  body.Unsupported("reasoning_effort");
  body.Unsupported("documents");
}

// Parts of one message of other kinds than text, by the API's rule.
void RefuseForeignParts(BodyReader& body, const Json& messages) {
  for (const Json& message : messages) {
    if (!message.is_object()) continue;
    const auto content = message.find("content");
    if (content == message.end() || !content->is_array()) continue;
    for (const Json& part : *content) {
      // What is malformed is the flow's to refuse.
      const auto type = part.is_object() ? part.find("type") : part.end();
      if (!part.is_object() || type == part.end() || !type->is_string()) {
        continue;
      }
      if (*type != "text") {
        body.Fail(BadRequest(absl::StrCat("content parts of type ",
                                          type->dump(), " are not supported"),
                             "messages", "unsupported_parameter"));
        return;
      }
    }
  }
}

// The prompts of a completion: a string, ids, or a list of either.
// Points into the body.
std::vector<const Json*> ReadPrompts(BodyReader& body) {
  const Json* prompt = body.Find("prompt");
  if (prompt == nullptr) {
    body.Fail(BadRequest("prompt is required", "prompt"));
    return {};
  }
  const auto is_ids = [](const Json& value) {
    return value.is_array() && !value.empty() &&
           std::all_of(value.begin(), value.end(), [](const Json& id) {
             return TokenIdOf(id).has_value();
           });
  };
  if (prompt->is_string() || is_ids(*prompt)) return {prompt};
  std::vector<const Json*> prompts;
  if (prompt->is_array()) {
    for (const Json& item : *prompt) {
      if (!item.is_string() && !is_ids(item)) break;
      prompts.push_back(&item);
    }
  }
  if (prompts.empty() || prompts.size() != prompt->size()) {
    body.Fail(BadRequest(
        "prompt must be a string, token ids, or a list of either", "prompt"));
    return {};
  }
  if (prompts.size() > kMaxPrompts) {
    body.Fail(BadRequest(absl::StrFormat("prompt has %d entries, limit %d",
                                         prompts.size(), kMaxPrompts),
                         "prompt"));
  }
  return prompts;
}

void ReadCompletionLimits(BodyReader& body, OpenAiRequest& request,
                          v1::SamplingParams& sampling) {
  request.echo = body.Bool("echo").value_or(false);
  const std::optional<int64_t> max_tokens = body.Integer("max_tokens");
  if (request.echo && max_tokens == 0) {
    // One token is computed, for the scores before it, and dropped.
    request.scores_only = true;
    sampling.set_max_tokens(1);
  } else {
    SetMaxTokens(body, max_tokens.value_or(kDefaultCompletionTokens), sampling,
                 "max_tokens");
  }
  if (auto v =
          body.IntegerIn("logprobs", 0, 20, "logprobs must be in [0, 20]")) {
    request.logprobs = true;
    request.top_logprobs = static_cast<uint32_t>(*v);
    sampling.set_logprobs(static_cast<int32_t>(*v));
    if (request.echo && !sampling.has_prompt_logprobs()) {
      sampling.set_prompt_logprobs(static_cast<int32_t>(*v));
    }
  }
  body.Only("best_of", request.n);
}

}  // namespace

OpenAiRequest ParseChatRequest(const Json& json, const OpenAiLimits& limits,
                               std::optional<HttpError>& error) {
  OpenAiRequest request;
  request.chat = true;
  GenerateCall call;
  BodyReader body(json, "", error);
  ReadShared(body, error, request, call);
  v1::SamplingParams& sampling = *call.request.mutable_sampling();
  ReadChatLabels(body, call);
  ReadChatLimits(body, sampling);
  ReadChatLogprobs(body, request, sampling);
  Json kwargs;
  ReadTemplateFields(body, kwargs, call);
  if (const Json* messages = body.Find("messages")) {
    RefuseForeignParts(body, *messages);
    call.request.mutable_chat()->set_messages_json(messages->dump());
  } else {
    body.Fail(BadRequest("messages is required", "messages"));
  }
  if (kwargs.is_object()) {
    call.request.mutable_chat()->set_template_kwargs_json(kwargs.dump());
  }
  body.Only("modalities", Json::array({"text"}));
  body.Only("prompt_cache_retention", "in_memory");
  body.Only("echo", false);
  body.Only("separate_reasoning", true);
  body.Only("stream_reasoning", true);
  body.Only("include_reasoning", true);
  for (const char* name : {"tools", "tool_choice", "parallel_tool_calls",
                           "prompt", "best_of", "suffix"}) {
    body.Unsupported(name);
  }
  RefuseShared(body);
  body.Finish(limits.tolerated_fields, &request.ignored_fields);
  request.calls.push_back(std::move(call));
  return request;
}

OpenAiRequest ParseCompletionRequest(const Json& json,
                                     const OpenAiLimits& limits,
                                     std::optional<HttpError>& error) {
  OpenAiRequest request;
  GenerateCall call;
  BodyReader body(json, "", error);
  ReadShared(body, error, request, call);
  ReadCompletionLimits(body, request, *call.request.mutable_sampling());
  const std::vector<const Json*> prompts = ReadPrompts(body);
  if (prompts.size() * request.n > kMaxSequences) {
    body.Fail(
        BadRequest(absl::StrFormat("%d prompts x %d choices, limit %d",
                                   prompts.size(), request.n, kMaxSequences),
                   "n"));
  }
  for (const char* name : {"messages",
                           "max_completion_tokens",
                           "top_logprobs",
                           "tools",
                           "tool_choice",
                           "parallel_tool_calls",
                           "suffix",
                           "reasoning_effort",
                           "verbosity",
                           "modalities",
                           "prompt_cache_retention",
                           "separate_reasoning",
                           "stream_reasoning",
                           "include_reasoning",
                           "chat_template_kwargs",
                           "add_generation_prompt",
                           "continue_final_message",
                           "documents",
                           "metadata",
                           "safety_identifier",
                           "prompt_cache_key"}) {
    body.Unsupported(name);
  }
  RefuseShared(body);
  body.Finish(limits.tolerated_fields, &request.ignored_fields);
  if (error.has_value()) {
    // However many prompts there are, they do not run.
    request.calls.push_back(std::move(call));
    return request;
  }
  for (const Json* prompt : prompts) {
    GenerateCall& one = request.calls.emplace_back(call);
    if (prompt->is_string()) {
      one.request.set_text(prompt->get_ref<const std::string&>());
    } else {
      for (const Json& id : *prompt) {
        one.request.mutable_tokens()->add_ids(*TokenIdOf(id));
      }
    }
  }
  return request;
}

}  // namespace sluice::router
