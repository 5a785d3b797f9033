#ifndef ROUTER_SERVER_HTTP_ANSWER_H_
#define ROUTER_SERVER_HTTP_ANSWER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
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
  virtual void SendEvents(std::string bytes, std::function<void()> written) = 0;
  virtual void EndStream() = 0;
};

// Runs the flows of one request and turns their events into HTTP. Everything
// happens on `post` (one task at a time); flows call from any thread.
class HttpAnswer final : public std::enable_shared_from_this<HttpAnswer> {
 public:
  using Post = std::function<void(std::function<void()>)>;

  // `sink` lives until Abandon() or the end of the reply.
  HttpAnswer(const HttpRequest& request, OpenAiRequest generate, Router& router,
             Post post, std::shared_ptr<AnswerSink> sink);

  void Start();
  // The client is gone: cancels the flows; the sink is not called any more.
  void Abandon();

 private:
  class Listener;

  void OnStarted(size_t prompt, const StartedEvent& event);
  void OnDelta(size_t prompt, const v1::TokenDelta& delta);
  void OnChoiceEnd(size_t prompt, const v1::ChoiceEnd& end);
  void OnEnd(size_t prompt, const EndEvent& end);
  // Sends events; acknowledges `num_deltas` of `prompt` once written.
  void Send(const std::vector<std::string>& events, size_t prompt,
            uint32_t num_deltas);
  void Fail(const HttpError& error);
  void CancelFlows();
  std::vector<std::pair<std::string, std::string>> ReplyHeaders() const;

  const OpenAiRequest generate_;
  Router& router_;
  const Post post_;
  std::shared_ptr<AnswerSink> sink_;  // null: over
  std::vector<std::shared_ptr<Flow>> flows_;
  std::string request_id_;
  std::unique_ptr<OpenAiAnswer> answer_;
  bool streaming_ = false;  // headers are out
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_ANSWER_H_
