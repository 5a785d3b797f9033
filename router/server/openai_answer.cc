#include "router/server/openai_answer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "router/server/json_text.h"

namespace sluice::router {
namespace {

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

std::string Quoted(absl::string_view text) {
  std::string out;
  AppendJsonString(text, out);
  return out;
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

// The members of one token of a chat, without braces.
void OpenAiAnswer::AppendTokenEntry(const FlowState& flow,
                                    const v1::TokenLogprob& token,
                                    std::string& out) const {
  out += "\"token\":";
  AppendJsonString(TokenText(flow, token.token_id()), out);
  out += ",\"logprob\":";
  AppendJsonNumber(token.logprob(), out);
  const absl::string_view bytes = flow.model->tokenizer().TokenBytes(
      static_cast<int32_t>(token.token_id()));
  const char* separator = "";
  out += ",\"bytes\":[";
  for (const char c : bytes) {
    absl::StrAppend(&out, std::exchange(separator, ","),
                    static_cast<int>(static_cast<uint8_t>(c)));
  }
  out += ']';
}

void OpenAiAnswer::AppendChatToken(const FlowState& flow,
                                   const v1::PositionLogprobs& position,
                                   std::string& list) const {
  AppendComma(list);
  list += '{';
  AppendTokenEntry(flow, position.chosen(), list);
  list += ",\"top_logprobs\":[";
  const char* separator = "{";
  for (const v1::TokenLogprob& top : position.top()) {
    list += std::exchange(separator, ",{");
    AppendTokenEntry(flow, top, list);
    list += '}';
  }
  list += "]}";
}

void OpenAiAnswer::AddCompletionToken(const FlowState& flow,
                                      const v1::PositionLogprobs& position,
                                      Choice& choice) {
  const std::string text = TokenText(flow, position.chosen().token_id());
  TokenLists& lists = choice.lists;
  AppendComma(lists.tokens);
  AppendJsonString(text, lists.tokens);
  AppendComma(lists.token_logprobs);
  AppendJsonNumber(position.chosen().logprob(), lists.token_logprobs);
  // By text. Tokens that look alike: the likeliest stays. The token itself is
  // there even when it is not among the most likely.
  std::vector<std::pair<std::string, float>> top;
  const auto find = [&top](const std::string& key) {
    return std::find_if(top.begin(), top.end(),
                        [&](const auto& entry) { return entry.first == key; });
  };
  for (const v1::TokenLogprob& entry : position.top()) {
    std::string key = TokenText(flow, entry.token_id());
    if (find(key) == top.end())
      top.emplace_back(std::move(key), entry.logprob());
  }
  if (const auto own = find(text); own != top.end()) {
    own->second = position.chosen().logprob();
  } else {
    top.emplace_back(text, position.chosen().logprob());
  }
  AppendComma(lists.top_logprobs);
  const char* separator = "{";
  for (const auto& [key, logprob] : top) {
    lists.top_logprobs += std::exchange(separator, ",");
    AppendJsonString(key, lists.top_logprobs);
    lists.top_logprobs += ':';
    AppendJsonNumber(logprob, lists.top_logprobs);
  }
  lists.top_logprobs += '}';
  AppendComma(lists.text_offset);
  absl::StrAppend(&lists.text_offset, choice.offset);
  choice.offset += CountCodePoints(text);
}

void OpenAiAnswer::AddEcho(size_t prompt, Choice& choice) {
  const FlowState& flow = flows_[prompt];
  choice.text = PromptText(prompt);
  if (!request_.logprobs || flow.prompt_ids.empty()) return;
  const std::string first = TokenText(flow, flow.prompt_ids[0]);
  choice.lists = {.tokens = Quoted(first),
                  .token_logprobs = "null",
                  .top_logprobs = "null",
                  .text_offset = "0"};
  choice.offset = CountCodePoints(first);
  for (const v1::PositionLogprobs& position :
       flow.started.prompt_logprobs().positions()) {
    AddCompletionToken(flow, position, choice);
  }
}

void OpenAiAnswer::AppendLists(const TokenLists& lists, std::string& out) {
  absl::StrAppend(&out, "{\"tokens\":[", lists.tokens, "],\"token_logprobs\":[",
                  lists.token_logprobs, "],\"top_logprobs\":[",
                  lists.top_logprobs, "],\"text_offset\":[", lists.text_offset,
                  "]}");
}

void OpenAiAnswer::AppendPromptLogprobs(const FlowState& flow,
                                        std::string& out) const {
  out += "[null";  // position 0 has none
  for (const v1::PositionLogprobs& position :
       flow.started.prompt_logprobs().positions()) {
    const char* separator = ",{";
    const auto add = [&](const v1::TokenLogprob& token) {
      absl::StrAppend(&out, std::exchange(separator, ","), "\"",
                      token.token_id(), "\":{\"logprob\":");
      AppendJsonNumber(token.logprob(), out);
      out += ",\"decoded_token\":";
      AppendJsonString(TokenText(flow, token.token_id()), out);
      out += '}';
    };
    add(position.chosen());
    for (const v1::TokenLogprob& top : position.top()) {
      if (top.token_id() != position.chosen().token_id()) add(top);
    }
    out += '}';
  }
  out += ']';
}

void OpenAiAnswer::AppendUsage(std::string& out) const {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t completion_tokens = 0;
  for (const FlowState& flow : flows_) {
    prompt_tokens += flow.started.prompt_tokens();
    cached_tokens += flow.started.cached_tokens();
    completion_tokens += flow.completion_tokens;
  }
  if (request_.scores_only) completion_tokens = 0;
  absl::StrAppend(
      &out, "{\"prompt_tokens\":", prompt_tokens,
      ",\"completion_tokens\":", completion_tokens,
      ",\"total_tokens\":", prompt_tokens + completion_tokens,
      ",\"prompt_tokens_details\":{\"cached_tokens\":", cached_tokens, "}}");
}

void OpenAiAnswer::AppendTiming(std::string& out) const {
  if (!request_.timing) return;
  const v1::Timing& timing = flows_[0].usage.timing();
  absl::StrAppend(
      &out, ",\"sluice\":{\"timing\":{\"queue_ms\":", timing.queue_ms(),
      ",\"ttft_ms\":", timing.ttft_ms(), ",\"total_ms\":", timing.total_ms(),
      ",\"transfer_bytes\":", timing.transfer_bytes(),
      ",\"transfer_ms\":", timing.transfer_ms(), ",\"transfer_transport\":");
  AppendJsonString(timing.transfer_transport(), out);
  out += "}}";
}

// What all chunks of a flow, or the body, begin with.
std::string OpenAiAnswer::Head(const FlowState& flow) const {
  const char* object = "text_completion";
  if (request_.chat) {
    object = request_.stream ? "chat.completion.chunk" : "chat.completion";
  }
  std::string head = "{\"id\":";
  AppendJsonString(id_, head);
  absl::StrAppend(&head, ",\"object\":\"", object, "\",\"created\":", created_,
                  ",\"model\":");
  AppendJsonString(flow.started.model(), head);
  head += ",\"system_fingerprint\":";
  AppendJsonString(flow.started.fingerprint(), head);
  if (!request_.service_tier.empty()) {
    head += ",\"service_tier\":";
    AppendJsonString(request_.service_tier, head);
  }
  return head;
}

std::string OpenAiAnswer::Chunk(size_t prompt, absl::string_view choices,
                                absl::string_view more) const {
  std::string usage;
  if (request_.continuous_usage) {
    usage = ",\"usage\":";
    AppendUsage(usage);
  } else if (request_.include_usage && more.empty()) {
    usage = ",\"usage\":null";
  }
  return absl::StrCat("data: ", flows_[prompt].head, usage, ",\"choices\":[",
                      choices, "]", more, "}\n\n");
}

std::string OpenAiAnswer::OpenChoice(size_t prompt, uint32_t choice,
                                     absl::string_view content) const {
  const size_t index = IndexOf(prompt, choice);
  if (!request_.chat) {
    return absl::StrCat("{\"index\":", index,
                        ",\"text\":", content.empty() ? "\"\"" : content);
  }
  return absl::StrCat("{\"index\":", index, ",\"delta\":{",
                      content.empty() ? "" : "\"content\":", content, "}");
}

std::string OpenAiAnswer::OnStarted(size_t prompt, const StartedEvent& event) {
  FlowState& flow = flows_[prompt];
  flow.model = event.model;
  flow.started = event.started;
  if (event.prompt_ids != nullptr) flow.prompt_ids = *event.prompt_ids;
  flow.head = Head(flow);
  std::string out;
  for (uint32_t c = 0; c < request_.n; ++c) {
    Choice& choice = flow.choices[c];
    if (request_.echo) AddEcho(prompt, choice);
    const bool quiet = !request_.chat && !request_.echo &&
                       !request_.prompt_logprobs && !request_.return_token_ids;
    if (!request_.stream || quiet) continue;
    std::string json = request_.chat
                           ? absl::StrCat("{\"index\":", IndexOf(prompt, c),
                                          ",\"delta\":{\"role\":\"assistant\","
                                          "\"content\":\"\"}")
                           : OpenChoice(prompt, c, Quoted(choice.text));
    json += ",\"logprobs\":";
    if (!request_.chat && request_.logprobs) {
      AppendLists(std::exchange(choice.lists, {}), json);
    } else {
      json += "null";
    }
    json += ",\"finish_reason\":null";
    if (request_.return_token_ids) {
      absl::StrAppend(&json, ",\"prompt_token_ids\":[",
                      absl::StrJoin(flow.prompt_ids, ","), "]");
    }
    if (request_.prompt_logprobs) {
      json += ",\"prompt_logprobs\":";
      AppendPromptLogprobs(flow, json);
    }
    json += '}';
    out += Chunk(prompt, json);
  }
  if (request_.stream) flow.started.clear_prompt_logprobs();
  return out;
}

std::string OpenAiAnswer::OnDelta(size_t prompt, const v1::TokenDelta& delta) {
  FlowState& flow = flows_[prompt];
  Choice& choice = flow.choices[delta.choice()];
  flow.completion_tokens += static_cast<uint32_t>(delta.token_ids_size());
  if (request_.scores_only) return "";
  if (request_.logprobs) {
    for (const v1::PositionLogprobs& position : delta.logprobs().positions()) {
      if (request_.chat) {
        AppendChatToken(flow, position, choice.chat_logprobs);
      } else {
        AddCompletionToken(flow, position, choice);
      }
    }
  }
  if (request_.return_token_ids && delta.token_ids_size() > 0) {
    AppendComma(choice.token_ids);
    absl::StrAppend(&choice.token_ids, absl::StrJoin(delta.token_ids(), ","));
  }
  if (!request_.stream) {
    choice.text += delta.text();
    return "";
  }
  if (delta.text().empty() && !request_.logprobs &&
      !request_.return_token_ids && !request_.continuous_usage) {
    return "";
  }
  std::string json = OpenChoice(
      prompt, delta.choice(), delta.text().empty() ? "" : Quoted(delta.text()));
  json += ",\"logprobs\":";
  if (!request_.logprobs) {
    json += "null";
  } else if (request_.chat) {
    absl::StrAppend(&json, "{\"content\":[",
                    std::exchange(choice.chat_logprobs, ""), "]}");
  } else {
    AppendLists(std::exchange(choice.lists, {}), json);
  }
  json += ",\"finish_reason\":null";
  if (request_.return_token_ids) {
    absl::StrAppend(&json, ",\"token_ids\":[",
                    std::exchange(choice.token_ids, ""), "]");
  }
  json += '}';
  return Chunk(prompt, json);
}

std::string OpenAiAnswer::OnChoiceEnd(size_t prompt, const v1::ChoiceEnd& end) {
  Choice& choice = flows_[prompt].choices[end.choice()];
  choice.finish_reason = ReasonName(end.reason());
  if (end.matched_case() == v1::ChoiceEnd::kStopString) {
    choice.stop_reason = Quoted(end.stop_string());
  } else if (end.matched_case() == v1::ChoiceEnd::kStopTokenId) {
    // The model's own end of text is no reason to tell.
    for (const uint32_t id :
         request_.calls[prompt].request.sampling().stop_token_ids()) {
      if (id == end.stop_token_id()) choice.stop_reason = absl::StrCat(id);
    }
  }
  if (!request_.stream) return "";
  return Chunk(prompt, absl::StrCat(OpenChoice(prompt, end.choice(), ""),
                                    ",\"logprobs\":null,\"finish_reason\":\"",
                                    choice.finish_reason, "\",\"stop_reason\":",
                                    choice.stop_reason, "}"));
}

std::string OpenAiAnswer::OnEnd(size_t prompt, const EndEvent& end) {
  flows_[prompt].usage = end.usage;
  ++num_ended_;
  if (!all_ended() || !request_.stream) return "";
  if (!request_.include_usage && !request_.timing) return "";
  std::string more;
  if (request_.include_usage && !request_.continuous_usage) {
    more = ",\"usage\":";
    AppendUsage(more);
  }
  AppendTiming(more);
  return Chunk(prompt, "", more);
}

void OpenAiAnswer::AppendBodyChoice(size_t prompt, uint32_t index,
                                    std::string& out) {
  const FlowState& flow = flows_[prompt];
  const Choice choice = std::move(flows_[prompt].choices[index]);
  absl::StrAppend(&out, "{\"index\":", IndexOf(prompt, index));
  out += request_.chat ? ",\"message\":{\"role\":\"assistant\",\"content\":"
                       : ",\"text\":";
  AppendJsonString(choice.text, out);
  if (request_.chat) out += ",\"refusal\":null}";
  out += ",\"logprobs\":";
  if (!request_.logprobs) {
    out += "null";
  } else if (request_.chat) {
    absl::StrAppend(&out, "{\"content\":[", choice.chat_logprobs, "]}");
  } else {
    AppendLists(choice.lists, out);
  }
  absl::StrAppend(&out, ",\"finish_reason\":\"", choice.finish_reason,
                  "\",\"stop_reason\":", choice.stop_reason);
  if (request_.prompt_logprobs) {
    out += ",\"prompt_logprobs\":";
    AppendPromptLogprobs(flow, out);
  }
  if (request_.return_token_ids) {
    absl::StrAppend(&out, ",\"prompt_token_ids\":[",
                    absl::StrJoin(flow.prompt_ids, ","), "],\"token_ids\":[",
                    choice.token_ids, "]");
  }
  out += '}';
}

std::string OpenAiAnswer::TakeBody() {
  std::string body = absl::StrCat(flows_[0].head, ",\"choices\":[");
  for (size_t prompt = 0; prompt < flows_.size(); ++prompt) {
    for (uint32_t c = 0; c < request_.n; ++c) {
      if (prompt + c > 0) body += ',';
      AppendBodyChoice(prompt, c, body);
    }
  }
  body += "],\"usage\":";
  AppendUsage(body);
  AppendTiming(body);
  body += '}';
  return body;
}

}  // namespace sluice::router
