#ifndef ROUTER_SERVER_OPENAI_ANSWER_H_
#define ROUTER_SERVER_OPENAI_ANSWER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "router/flow/request_flow.h"
#include "router/server/openai_request.h"

namespace sluice::router {

// Turns the events of a request's flows into the JSON of the OpenAI API: the
// chunks of a stream, or one body. Pure but for what it has gathered; one
// thread at a time. `prompt` is the index of the flow.
class OpenAiAnswer {
 public:
  // `id` with its prefix; `created` in seconds of the epoch. Borrows
  // `request`. With `echo` its calls keep their texts.
  OpenAiAnswer(const OpenAiRequest& request, std::string id, int64_t created);

  // Stream: the events to send now, framed ("data: <JSON>\n\n"); else "".
  std::string OnStarted(size_t prompt, const StartedEvent& event);
  std::string OnDelta(size_t prompt, const v1::TokenDelta& delta);
  std::string OnChoiceEnd(size_t prompt, const v1::ChoiceEnd& end);
  // After the last flow's end: the usage chunk, if asked for.
  std::string OnEnd(size_t prompt, const EndEvent& end);

  bool any_ended() const { return num_ended_ > 0; }
  bool all_ended() const { return num_ended_ == flows_.size(); }
  // Not streamed: the body, once all flows have ended well. Once: what was
  // gathered goes into it.
  std::string TakeBody();

 private:
  // Lists of a completion's tokens: JSON, without brackets.
  struct TokenLists {
    std::string tokens;
    std::string token_logprobs;
    std::string top_logprobs;
    std::string text_offset;
  };
  struct Choice {
    std::string text;           // not streamed, or echoed
    std::string token_ids;      // JSON, without brackets
    std::string chat_logprobs;  // likewise
    TokenLists lists;           // a stream forgets what it has sent
    size_t offset = 0;          // code points of the tokens so far
    std::string finish_reason;
    std::string stop_reason = "null";  // JSON
  };
  struct FlowState {
    std::shared_ptr<const ServedModel> model;
    v1::Started started;
    std::vector<uint32_t> prompt_ids;
    v1::RequestEnd usage;
    uint32_t completion_tokens = 0;  // so far
    std::vector<Choice> choices;
    std::string head;  // of a chunk, up to where its usage may come
  };

  size_t IndexOf(size_t prompt, uint32_t choice) const {
    return prompt * request_.n + choice;
  }
  std::string PromptText(size_t prompt) const;
  // What one token looks like in an answer.
  std::string TokenText(const FlowState& flow, uint32_t id) const;
  void AddEcho(size_t prompt, Choice& choice);
  void AddCompletionToken(const FlowState& flow,
                          const v1::PositionLogprobs& position, Choice& choice);
  void AppendChatToken(const FlowState& flow,
                       const v1::PositionLogprobs& position,
                       std::string& list) const;
  void AppendTokenEntry(const FlowState& flow, const v1::TokenLogprob& token,
                        std::string& out) const;
  void AppendPromptLogprobs(const FlowState& flow, std::string& out) const;
  static void AppendLists(const TokenLists& lists, std::string& out);
  void AppendUsage(std::string& out) const;
  void AppendTiming(std::string& out) const;
  std::string Head(const FlowState& flow) const;
  // `choices`: JSON without brackets; `more`: members after them.
  std::string Chunk(size_t prompt, absl::string_view choices,
                    absl::string_view more = "") const;
  // A choice of a chunk: `content` is the text as JSON string, "" for none.
  std::string OpenChoice(size_t prompt, uint32_t choice,
                         absl::string_view content) const;
  void AppendBodyChoice(size_t prompt, uint32_t choice, std::string& out);

  const OpenAiRequest& request_;
  const std::string id_;
  const int64_t created_;
  std::vector<FlowState> flows_;
  size_t num_ended_ = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_OPENAI_ANSWER_H_
