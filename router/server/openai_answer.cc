#include "router/server/openai_answer.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Each maximal invalid part becomes U+FFFD.
std::string ToValidUtf8(absl::string_view bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Char next = Utf8At(bytes, at);
    if (next.kind == Utf8Char::Kind::kValid) {
      absl::StrAppend(&text, bytes.substr(at, next.size_bytes));
    } else {
      AppendUtf8(0xFFFD, text);
    }
    at += next.size_bytes;
  }
  return text;
}

// JSON has no infinity.
Json Logprob(float value) {
  return std::isfinite(value) ? Json(static_cast<double>(value))
                              : Json(nullptr);
}

size_t CountCodePoints(const std::string& text) {
  size_t count = 0;
  for (const char c : text) count += (c & 0xc0) != 0x80;
  return count;
}

const char* ReasonName(v1::ChoiceEnd::Reason reason) {
  switch (reason) {
    case v1::ChoiceEnd::LENGTH:
      return "length";
    case v1::ChoiceEnd::ABORT:
      return "abort";
    default:
      return "stop";
  }
}

}  // namespace

OpenAiAnswer::OpenAiAnswer(const OpenAiRequest& request, std::string id,
                           int64_t created)
    : request_(request),
      id_(std::move(id)),
      created_(created),
      flows_(request.calls.size()) {
  for (FlowState& flow : flows_) flow.choices.resize(request.n);
}

std::string OpenAiAnswer::PromptText(size_t prompt) const {
  const FlowState& flow = flows_[prompt];
  const v1::GenerateRequest& call = request_.calls[prompt].request;
  if (call.has_text() && !call.sampling().has_truncate_prompt_tokens()) {
    return call.text();
  }
  const absl::StatusOr<std::string> text =
      flow.model->Detokenize(flow.prompt_ids);
  return text.ok() ? *text : "";
}

std::string OpenAiAnswer::TokenText(const FlowState& flow, uint32_t id) const {
  if (request_.tokens_as_token_ids) return absl::StrCat("token_id:", id);
  return ToValidUtf8(
      flow.model->tokenizer().TokenBytes(static_cast<int32_t>(id)));
}

Json OpenAiAnswer::ChatToken(const FlowState& flow,
                             const v1::PositionLogprobs& position) const {
  const auto entry = [&](const v1::TokenLogprob& token) {
    const absl::string_view bytes = flow.model->tokenizer().TokenBytes(
        static_cast<int32_t>(token.token_id()));
    Json list = Json::array();
    for (const char c : bytes) list.push_back(static_cast<uint8_t>(c));
    return Json{{"token", TokenText(flow, token.token_id())},
                {"logprob", Logprob(token.logprob())},
                {"bytes", std::move(list)}};
  };
  Json json = entry(position.chosen());
  json["top_logprobs"] = Json::array();
  for (const v1::TokenLogprob& top : position.top()) {
    json["top_logprobs"].push_back(entry(top));
  }
  return json;
}

void OpenAiAnswer::AddCompletionToken(const FlowState& flow,
                                      const v1::PositionLogprobs& position,
                                      Choice& choice) {
  const std::string text = TokenText(flow, position.chosen().token_id());
  choice.tokens.push_back(text);
  choice.token_logprobs.push_back(Logprob(position.chosen().logprob()));
  Json top = Json::object();
  for (const v1::TokenLogprob& entry : position.top()) {
    // Tokens that look alike: the likeliest stays.
    top.emplace(TokenText(flow, entry.token_id()), Logprob(entry.logprob()));
  }
  // The token itself is there even when it is not among the most likely.
  top[text] = Logprob(position.chosen().logprob());
  choice.top_logprobs.push_back(std::move(top));
  choice.text_offset.push_back(choice.offset);
  choice.offset += CountCodePoints(text);
}

void OpenAiAnswer::AddEcho(size_t prompt, Choice& choice) {
  const FlowState& flow = flows_[prompt];
  choice.text = PromptText(prompt);
  if (!request_.logprobs || flow.prompt_ids.empty()) return;
  const std::string first = TokenText(flow, flow.prompt_ids[0]);
  choice.tokens.push_back(first);
  choice.token_logprobs.push_back(nullptr);
  choice.top_logprobs.push_back(nullptr);
  choice.text_offset.push_back(0);
  choice.offset = CountCodePoints(first);
  for (const v1::PositionLogprobs& position :
       flow.started.prompt_logprobs().positions()) {
    AddCompletionToken(flow, position, choice);
  }
}

Json OpenAiAnswer::CompletionLogprobs(const Choice& choice) const {
  return {{"tokens", choice.tokens},
          {"token_logprobs", choice.token_logprobs},
          {"top_logprobs", choice.top_logprobs},
          {"text_offset", choice.text_offset}};
}

Json OpenAiAnswer::PromptLogprobsJson(const FlowState& flow) const {
  Json list = Json::array({nullptr});  // position 0 has none
  for (const v1::PositionLogprobs& position :
       flow.started.prompt_logprobs().positions()) {
    Json entry = Json::object();
    const auto add = [&](const v1::TokenLogprob& token) {
      entry[absl::StrCat(token.token_id())] = {
          {"logprob", Logprob(token.logprob())},
          {"decoded_token", TokenText(flow, token.token_id())}};
    };
    add(position.chosen());
    for (const v1::TokenLogprob& top : position.top()) add(top);
    list.push_back(std::move(entry));
  }
  return list;
}

Json OpenAiAnswer::Usage() const {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t completion_tokens = 0;
  for (const FlowState& flow : flows_) {
    prompt_tokens += flow.started.prompt_tokens();
    cached_tokens += flow.started.cached_tokens();
    completion_tokens += flow.completion_tokens;
  }
  if (request_.scores_only) completion_tokens = 0;
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", completion_tokens},
          {"total_tokens", prompt_tokens + completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", cached_tokens}}}};
}

void OpenAiAnswer::AddTiming(Json& object) const {
  if (!request_.timing) return;
  const v1::Timing& timing = flows_[0].usage.timing();
  object["sluice"] = {{"timing",
                       {{"queue_ms", timing.queue_ms()},
                        {"ttft_ms", timing.ttft_ms()},
                        {"total_ms", timing.total_ms()},
                        {"transfer_bytes", timing.transfer_bytes()},
                        {"transfer_ms", timing.transfer_ms()},
                        {"transfer_transport", timing.transfer_transport()}}}};
}

Json OpenAiAnswer::Chunk(size_t prompt) const {
  const FlowState& flow = flows_[prompt];
  const char* object = "text_completion";
  if (request_.chat) {
    object = request_.stream ? "chat.completion.chunk" : "chat.completion";
  }
  Json chunk = {{"id", id_},
                {"object", object},
                {"created", created_},
                {"model", flow.started.model()},
                {"system_fingerprint", flow.started.fingerprint()}};
  if (!request_.service_tier.empty()) {
    chunk["service_tier"] = request_.service_tier;
  }
  if (request_.stream && request_.continuous_usage) {
    chunk["usage"] = Usage();
  } else if (request_.stream && request_.include_usage) {
    chunk["usage"] = nullptr;
  }
  return chunk;
}

Json OpenAiAnswer::StreamChoice(size_t prompt, uint32_t choice,
                                std::string text) const {
  Json json = {{"index", IndexOf(prompt, choice)}};
  if (request_.chat) {
    json["delta"] =
        text.empty() ? Json::object() : Json{{"content", std::move(text)}};
  } else {
    json["text"] = std::move(text);
  }
  json["logprobs"] = nullptr;
  json["finish_reason"] = nullptr;
  return json;
}

std::vector<std::string> OpenAiAnswer::OnStarted(size_t prompt,
                                                 const StartedEvent& event) {
  FlowState& flow = flows_[prompt];
  flow.model = event.model;
  flow.started = event.started;
  if (event.prompt_ids != nullptr) flow.prompt_ids = *event.prompt_ids;
  std::vector<std::string> out;
  for (uint32_t c = 0; c < request_.n; ++c) {
    Choice& choice = flow.choices[c];
    if (request_.echo) AddEcho(prompt, choice);
    const bool quiet = !request_.chat && !request_.echo &&
                       !request_.prompt_logprobs && !request_.return_token_ids;
    if (!request_.stream || quiet) continue;
    Json chunk = Chunk(prompt);
    Json json = StreamChoice(prompt, c, choice.text);
    if (request_.chat) {
      json["delta"] = {{"role", "assistant"}, {"content", ""}};
    } else if (request_.logprobs) {
      json["logprobs"] = CompletionLogprobs(choice);
    }
    if (request_.return_token_ids) json["prompt_token_ids"] = flow.prompt_ids;
    if (request_.prompt_logprobs) {
      json["prompt_logprobs"] = PromptLogprobsJson(flow);
    }
    choice.ForgetTokens();
    chunk["choices"] = Json::array({std::move(json)});
    out.push_back(Dump(chunk));
  }
  return out;
}

std::vector<std::string> OpenAiAnswer::OnDelta(size_t prompt,
                                               const v1::TokenDelta& delta) {
  FlowState& flow = flows_[prompt];
  Choice& choice = flow.choices[delta.choice()];
  flow.completion_tokens += delta.token_ids_size();
  if (request_.scores_only) return {};
  if (!request_.stream) choice.text += delta.text();
  Json chat_logprobs = Json::array();
  if (request_.logprobs) {
    for (const v1::PositionLogprobs& position : delta.logprobs().positions()) {
      if (request_.chat) {
        chat_logprobs.push_back(ChatToken(flow, position));
      } else {
        AddCompletionToken(flow, position, choice);
      }
    }
  }
  if (!request_.stream) {
    for (Json& entry : chat_logprobs) {
      choice.chat_logprobs.push_back(std::move(entry));
    }
  }
  if (request_.return_token_ids && !request_.stream) {
    choice.token_ids.insert(choice.token_ids.end(), delta.token_ids().begin(),
                            delta.token_ids().end());
  }
  const bool silent = delta.text().empty() && !request_.logprobs &&
                      !request_.return_token_ids && !request_.continuous_usage;
  if (!request_.stream || silent) return {};
  Json chunk = Chunk(prompt);
  Json json = StreamChoice(prompt, delta.choice(), delta.text());
  if (request_.logprobs) {
    json["logprobs"] = request_.chat
                           ? Json{{"content", std::move(chat_logprobs)}}
                           : CompletionLogprobs(choice);
    choice.ForgetTokens();
  }
  if (request_.return_token_ids) {
    json["token_ids"] = std::vector<uint32_t>(delta.token_ids().begin(),
                                              delta.token_ids().end());
  }
  chunk["choices"] = Json::array({std::move(json)});
  return {Dump(chunk)};
}

std::vector<std::string> OpenAiAnswer::OnChoiceEnd(size_t prompt,
                                                   const v1::ChoiceEnd& end) {
  Choice& choice = flows_[prompt].choices[end.choice()];
  choice.finish_reason = ReasonName(end.reason());
  if (end.matched_case() == v1::ChoiceEnd::kStopString) {
    choice.stop_reason = end.stop_string();
  } else if (end.matched_case() == v1::ChoiceEnd::kStopTokenId) {
    // The model's own end of text is no reason to tell.
    for (const uint32_t id :
         request_.calls[prompt].request.sampling().stop_token_ids()) {
      if (id == end.stop_token_id()) choice.stop_reason = id;
    }
  }
  if (!request_.stream) return {};
  Json chunk = Chunk(prompt);
  Json json = StreamChoice(prompt, end.choice(), "");
  json["finish_reason"] = choice.finish_reason;
  json["stop_reason"] = choice.stop_reason;
  chunk["choices"] = Json::array({std::move(json)});
  return {Dump(chunk)};
}

std::vector<std::string> OpenAiAnswer::OnEnd(size_t prompt,
                                             const EndEvent& end) {
  flows_[prompt].usage = end.usage;
  ++num_ended_;
  if (!all_ended() || !request_.stream) return {};
  if (!request_.include_usage && !request_.timing) return {};
  Json chunk = Chunk(prompt);
  chunk["choices"] = Json::array();
  if (request_.include_usage) chunk["usage"] = Usage();
  AddTiming(chunk);
  return {Dump(chunk)};
}

std::string OpenAiAnswer::Body() const {
  Json body = Chunk(0);
  Json choices = Json::array();
  for (size_t prompt = 0; prompt < flows_.size(); ++prompt) {
    const FlowState& flow = flows_[prompt];
    for (uint32_t c = 0; c < request_.n; ++c) {
      const Choice& choice = flow.choices[c];
      Json json = {{"index", IndexOf(prompt, c)}};
      if (request_.chat) {
        json["message"] = {{"role", "assistant"},
                           {"content", choice.text},
                           {"refusal", nullptr}};
        json["logprobs"] = request_.logprobs
                               ? Json{{"content", choice.chat_logprobs}}
                               : Json(nullptr);
      } else {
        json["text"] = choice.text;
        json["logprobs"] =
            request_.logprobs ? CompletionLogprobs(choice) : Json(nullptr);
      }
      json["finish_reason"] = choice.finish_reason;
      json["stop_reason"] = choice.stop_reason;
      if (request_.prompt_logprobs) {
        json["prompt_logprobs"] = PromptLogprobsJson(flow);
      }
      if (request_.return_token_ids) {
        json["prompt_token_ids"] = flow.prompt_ids;
        json["token_ids"] = choice.token_ids;
      }
      choices.push_back(std::move(json));
    }
  }
  body["choices"] = std::move(choices);
  body["usage"] = Usage();
  AddTiming(body);
  return Dump(body);
}

}  // namespace sluice::router
