#ifndef ROUTER_SERVER_OPENAI_ANSWER_H_
#define ROUTER_SERVER_OPENAI_ANSWER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "router/flow/request_flow.h"
#include "router/server/openai_request.h"

namespace sluice::router {

// Turns the events of a request's flows into the JSON of the OpenAI API: the
// chunks of a stream, or one body. Pure but for what it has gathered; one
// thread at a time. `prompt` is the index of the flow.
class OpenAiAnswer {
 public:
  // `id` with its prefix; `created` in seconds of the epoch.
  OpenAiAnswer(const OpenAiRequest& request, std::string id, int64_t created);

  // Stream: the JSON of the events to send now, in order, without framing.
  std::vector<std::string> OnStarted(size_t prompt, const StartedEvent& event);
  std::vector<std::string> OnDelta(size_t prompt, const v1::TokenDelta& delta);
  std::vector<std::string> OnChoiceEnd(size_t prompt, const v1::ChoiceEnd& end);
  // After the last flow's end: the usage chunk, if asked for.
  std::vector<std::string> OnEnd(size_t prompt, const EndEvent& end);

  bool all_ended() const { return num_ended_ == flows_.size(); }
  // Not streamed: the body, once all flows have ended well.
  std::string Body() const;

 private:
  using Json = nlohmann::ordered_json;

  struct Choice {
    std::string text;
    std::vector<uint32_t> token_ids;
    Json chat_logprobs = Json::array();
    Json tokens = Json::array();  // completions form
    Json token_logprobs = Json::array();
    Json top_logprobs = Json::array();
    Json text_offset = Json::array();
    size_t offset = 0;  // code points of the tokens so far
    // A stream has sent them: only the offset goes on.
    void ForgetTokens() {
      for (Json* list :
           {&tokens, &token_logprobs, &top_logprobs, &text_offset}) {
        *list = Json::array();
      }
    }
    std::string finish_reason;
    Json stop_reason;
  };
  struct FlowState {
    std::shared_ptr<const ServedModel> model;
    v1::Started started;
    std::vector<uint32_t> prompt_ids;
    v1::RequestEnd usage;
    uint32_t completion_tokens = 0;  // so far
    std::vector<Choice> choices;
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
  Json ChatToken(const FlowState& flow,
                 const v1::PositionLogprobs& position) const;
  Json PromptLogprobsJson(const FlowState& flow) const;
  Json CompletionLogprobs(const Choice& choice) const;
  Json Usage() const;
  Json Chunk(size_t prompt) const;  // without choices
  Json StreamChoice(size_t prompt, uint32_t choice, std::string text) const;
  void AddTiming(Json& object) const;

  const OpenAiRequest request_;
  const std::string id_;
  const int64_t created_;
  std::vector<FlowState> flows_;
  size_t num_ended_ = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_OPENAI_ANSWER_H_
