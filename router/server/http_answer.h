#ifndef ROUTER_SERVER_HTTP_ANSWER_H_
#define ROUTER_SERVER_HTTP_ANSWER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "router/flow/request_flow.h"
#include "router/server/http_message.h"
#include "router/server/openai_answer.h"

namespace sluice::router {

// Where one generation's output goes. Called in turn by HttpAnswer, on the
// executor it was given.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  // Not a stream, or refused before it began: everything.
  virtual void SendReply(HttpReply reply) = 0;
  // A stream begins: status 200 and these headers besides the usual ones.
  virtual void BeginStream(
      std::vector<std::pair<std::string, std::string>> headers) = 0;
  // Framed events; `written` runs when the client's socket has taken them.
  virtual void SendEvents(absl::string_view bytes,
                          std::function<void()> written) = 0;
  virtual void EndStream() = 0;
};

// Runs the flows of one request and turns their events into HTTP. Output and
// Abandon() happen on `post` (one task at a time); flows call from any thread.
//
// A list of prompts is one answer with one status: the headers of a stream go
// out when every prompt is admitted, so that a refusal of any of them is still
// the reply. Until then events are held, up to a bound; past it, or when a
// prompt has ended while others still wait, the stream begins.
class HttpAnswer final : public std::enable_shared_from_this<HttpAnswer> {
 public:
  using Post = std::function<void(std::function<void()>)>;

  // Makes the flows. `client_id`: "" for none. `sink` lives until
  // Abandon() or the end of the reply. Any thread.
  static std::shared_ptr<HttpAnswer> Make(OpenAiRequest generate,
                                          const std::string& client_id,
                                          Router& router, Post post,
                                          std::shared_ptr<AnswerSink> sink);

  // Starts the flows: checks and tokenises every prompt on this thread. Once;
  // Abandon() may come meanwhile.
  void Start();
  // The client is gone: cancels the flows; the sink is not called any more.
  void Abandon();

 private:
  class Listener;

  HttpAnswer(OpenAiRequest generate, Post post,
             std::shared_ptr<AnswerSink> sink);

  void OnAccepted();
  void OnStarted(size_t prompt, const StartedEvent& event);
  void OnDelta(size_t prompt, const v1::TokenDelta& delta);
  void OnChoiceEnd(size_t prompt, const v1::ChoiceEnd& end);
  void OnEnd(size_t prompt, const EndEvent& end);
  void MaybeBegin();
  // Sends events; acknowledges `num_deltas` of `prompt` once written.
  void Send(absl::string_view events, size_t prompt, uint32_t num_deltas);
  void Acknowledge(size_t prompt, uint32_t num_deltas);
  void Finish();
  void Fail(const HttpError& error);
  void CancelFlows();
  std::vector<std::pair<std::string, std::string>> ReplyHeaders() const;

  // Without the inputs, which are the flows'.
  const OpenAiRequest generate_;
  const Post post_;
  std::string request_id_;                       // constant after Make()
  std::vector<std::shared_ptr<Flow>> to_start_;  // Start()'s

  // All below: `post_`'s.
  std::shared_ptr<AnswerSink> sink_;  // null: over
  std::vector<std::shared_ptr<Flow>> flows_;
  std::unique_ptr<OpenAiAnswer> answer_;
  bool accepted_ = false;   // every prompt is past the first refusals
  bool streaming_ = false;  // headers are out
  size_t num_started_ = 0;
  std::string held_;                   // events before the headers
  std::vector<uint32_t> held_deltas_;  // in them, by prompt
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_ANSWER_H_
