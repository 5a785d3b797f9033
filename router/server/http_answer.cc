#include "router/server/http_answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"

namespace sluice::router {

// One flow's events, moved to the answer's executor.
class HttpAnswer::Listener final : public FlowListener {
 public:
  Listener(std::shared_ptr<HttpAnswer> answer, size_t prompt)
      : answer_(std::move(answer)), prompt_(prompt) {}

  void OnStarted(const StartedEvent& event) override {
    // The ids live as long as the flow; the copy may outlive it.
    auto ids = std::make_shared<std::vector<uint32_t>>();
    if (event.prompt_ids != nullptr) *ids = *event.prompt_ids;
    answer_->post_([answer = answer_, prompt = prompt_, event, ids] {
      StartedEvent copy = event;
      copy.prompt_ids = ids.get();
      answer->OnStarted(prompt, copy);
    });
  }
  void OnDelta(v1::TokenDelta delta) override {
    auto shared = std::make_shared<v1::TokenDelta>(std::move(delta));
    answer_->post_([answer = answer_, prompt = prompt_, shared] {
      answer->OnDelta(prompt, *shared);
    });
  }
  void OnChoiceEnd(const v1::ChoiceEnd& end) override {
    answer_->post_([answer = answer_, prompt = prompt_, end] {
      answer->OnChoiceEnd(prompt, end);
    });
  }
  void OnEnd(const EndEvent& end) override {
    answer_->post_([answer = answer_, prompt = prompt_, end] {
      answer->OnEnd(prompt, end);
    });
  }

 private:
  const std::shared_ptr<HttpAnswer> answer_;
  const size_t prompt_;
};

HttpAnswer::HttpAnswer(const HttpRequest& request, OpenAiRequest generate,
                       Router& router, Post post,
                       std::shared_ptr<AnswerSink> sink)
    : generate_(std::move(generate)),
      router_(router),
      post_(std::move(post)),
      sink_(std::move(sink)),
      request_id_(RequestIdFor(request, "")) {}

void HttpAnswer::Start() {
  for (size_t prompt = 0; prompt < generate_.calls.size(); ++prompt) {
    flows_.push_back(router_.NewFlow(
        generate_.calls[prompt],
        std::make_shared<Listener>(shared_from_this(), prompt)));
  }
  const std::string& ours = flows_[0]->request_id();
  if (request_id_.empty()) request_id_ = ours;
  answer_ = std::make_unique<OpenAiAnswer>(
      generate_, absl::StrCat(generate_.chat ? "chatcmpl-" : "cmpl-", ours),
      SystemClock::Get().UnixMicros() / 1'000'000);
  // A flow may end while another starts: start from a copy.
  const std::vector<std::shared_ptr<Flow>> flows = flows_;
  for (const std::shared_ptr<Flow>& flow : flows) flow->Start();
}

void HttpAnswer::Abandon() {
  sink_ = nullptr;
  CancelFlows();
}

void HttpAnswer::CancelFlows() {
  const std::vector<std::shared_ptr<Flow>> flows = std::move(flows_);
  flows_.clear();
  for (const std::shared_ptr<Flow>& flow : flows) {
    flow->Cancel(CancelCause::kClient);
  }
}

std::vector<std::pair<std::string, std::string>> HttpAnswer::ReplyHeaders()
    const {
  std::vector<std::pair<std::string, std::string>> headers = {
      {"x-request-id", request_id_}};
  if (!generate_.ignored_fields.empty()) {
    headers.emplace_back("x-sluice-ignored-fields",
                         absl::StrJoin(generate_.ignored_fields, ","));
  }
  return headers;
}

void HttpAnswer::OnStarted(size_t prompt, const StartedEvent& event) {
  if (sink_ == nullptr) return;
  if (generate_.stream && !streaming_) {
    streaming_ = true;
    sink_->BeginStream(ReplyHeaders());
  }
  Send(answer_->OnStarted(prompt, event), prompt, 0);
}

void HttpAnswer::OnDelta(size_t prompt, const v1::TokenDelta& delta) {
  if (sink_ == nullptr) return;
  Send(answer_->OnDelta(prompt, delta), prompt, 1);
}

void HttpAnswer::OnChoiceEnd(size_t prompt, const v1::ChoiceEnd& end) {
  if (sink_ == nullptr) return;
  Send(answer_->OnChoiceEnd(prompt, end), prompt, 0);
}

void HttpAnswer::OnEnd(size_t prompt, const EndEvent& end) {
  if (sink_ == nullptr) return;
  if (!end.status.ok()) {
    Fail(ToHttpError(end.status, end.param));
    return;
  }
  Send(answer_->OnEnd(prompt, end), prompt, 0);
  if (!answer_->all_ended()) return;
  const std::shared_ptr<AnswerSink> sink = std::move(sink_);
  sink_ = nullptr;
  flows_.clear();
  if (streaming_) {
    sink->SendEvents("data: [DONE]\n\n", nullptr);
    sink->EndStream();
    return;
  }
  HttpReply reply;
  reply.body = answer_->Body();
  reply.headers = ReplyHeaders();
  sink->SendReply(std::move(reply));
}

void HttpAnswer::Send(const std::vector<std::string>& events, size_t prompt,
                      uint32_t num_deltas) {
  const std::shared_ptr<Flow> flow =
      prompt < flows_.size() ? flows_[prompt] : nullptr;
  const auto acknowledge = [flow, num_deltas] {
    if (flow != nullptr && num_deltas > 0) flow->Acknowledge(num_deltas);
  };
  if (events.empty() || !streaming_) {
    acknowledge();
    return;
  }
  std::string bytes;
  for (const std::string& event : events) {
    absl::StrAppend(&bytes, "data: ", event, "\n\n");
  }
  sink_->SendEvents(std::move(bytes), acknowledge);
}

void HttpAnswer::Fail(const HttpError& error) {
  const std::shared_ptr<AnswerSink> sink = std::move(sink_);
  sink_ = nullptr;
  CancelFlows();
  if (streaming_) {
    sink->SendEvents(absl::StrCat("data: ", error.Json(), "\n\n"), nullptr);
    sink->EndStream();
    return;
  }
  HttpReply reply = ErrorReply(error);
  for (auto& header : ReplyHeaders()) reply.headers.push_back(header);
  sink->SendReply(std::move(reply));
}

}  // namespace sluice::router
