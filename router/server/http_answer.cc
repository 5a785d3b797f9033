#include "router/server/http_answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"

namespace sluice::router {
namespace {

// What a list of prompts may hold back of its admitted ones. Far below the
// bounds at which a flow stops reading its worker.
constexpr size_t kMaxHeldBytes = 64 << 10;
constexpr uint32_t kMaxHeldDeltas = 256;

// Takes the inputs out of `request`, but for what answers show.
std::vector<GenerateCall> TakeCalls(OpenAiRequest& request) {
  std::vector<GenerateCall> calls = std::move(request.calls);
  request.calls.clear();
  for (const GenerateCall& call : calls) {
    GenerateCall& rest = request.calls.emplace_back();
    *rest.request.mutable_sampling() = call.request.sampling();
    if (request.echo && call.request.has_text()) {
      rest.request.set_text(call.request.text());
    }
  }
  return calls;
}

}  // namespace

// One flow's events, moved to the answer's executor.
class HttpAnswer::Listener final : public FlowListener {
 public:
  Listener(std::shared_ptr<HttpAnswer> answer, size_t prompt)
      : answer_(std::move(answer)), prompt_(prompt) {}

  void OnStarted(const StartedEvent& event) override {
    // The ids live as long as the flow; the copy may outlive it.
    struct Copy {
      StartedEvent event;
      std::vector<uint32_t> ids;
    };
    auto copy = std::make_shared<Copy>();
    copy->event = event;
    if (event.prompt_ids != nullptr) copy->ids = *event.prompt_ids;
    copy->event.prompt_ids = &copy->ids;
    answer_->post_([answer = answer_, prompt = prompt_, copy] {
      answer->OnStarted(prompt, copy->event);
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

HttpAnswer::HttpAnswer(OpenAiRequest generate, Post post,
                       std::shared_ptr<AnswerSink> sink)
    : generate_(std::move(generate)),
      post_(std::move(post)),
      sink_(std::move(sink)),
      held_deltas_(generate_.calls.size()) {}

std::shared_ptr<HttpAnswer> HttpAnswer::Make(OpenAiRequest generate,
                                             const std::string& client_id,
                                             Router& router, Post post,
                                             std::shared_ptr<AnswerSink> sink) {
  std::vector<GenerateCall> calls = TakeCalls(generate);
  std::shared_ptr<HttpAnswer> answer(
      new HttpAnswer(std::move(generate), std::move(post), std::move(sink)));
  for (size_t prompt = 0; prompt < calls.size(); ++prompt) {
    answer->flows_.push_back(router.NewFlow(
        std::move(calls[prompt]), std::make_shared<Listener>(answer, prompt)));
  }
  answer->to_start_ = answer->flows_;
  const std::string& ours = answer->flows_[0]->request_id();
  answer->request_id_ = client_id.empty() ? ours : client_id;
  answer->answer_ = std::make_unique<OpenAiAnswer>(
      answer->generate_,
      absl::StrCat(answer->generate_.chat ? "chatcmpl-" : "cmpl-", ours),
      SystemClock::Get().UnixMicros() / 1'000'000);
  return answer;
}

void HttpAnswer::Start() {
  for (const std::shared_ptr<Flow>& flow : to_start_) flow->Start();
  to_start_.clear();
  // After what the flows have posted by now.
  post_([self = shared_from_this()] { self->OnAccepted(); });
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

void HttpAnswer::OnAccepted() {
  accepted_ = true;
  MaybeBegin();
}

void HttpAnswer::MaybeBegin() {
  if (sink_ == nullptr || !generate_.stream || streaming_) return;
  uint32_t held_deltas = 0;
  for (const uint32_t deltas : held_deltas_) held_deltas += deltas;
  const bool waited_enough = answer_->any_ended() ||
                             held_.size() >= kMaxHeldBytes ||
                             held_deltas >= kMaxHeldDeltas;
  const bool all_started = num_started_ == flows_.size();
  if (!accepted_ || !(all_started || waited_enough)) return;
  streaming_ = true;
  sink_->BeginStream(ReplyHeaders());
  if (held_.empty()) return;
  const std::string events = std::exchange(held_, "");
  sink_->SendEvents(events, [self = shared_from_this()] {
    for (size_t prompt = 0; prompt < self->held_deltas_.size(); ++prompt) {
      self->Acknowledge(prompt, std::exchange(self->held_deltas_[prompt], 0));
    }
  });
}

void HttpAnswer::OnStarted(size_t prompt, const StartedEvent& event) {
  if (sink_ == nullptr) return;
  ++num_started_;
  // Begins with this event among what was held.
  Send(answer_->OnStarted(prompt, event), prompt, 0);
  MaybeBegin();
}

void HttpAnswer::OnDelta(size_t prompt, const v1::TokenDelta& delta) {
  if (sink_ == nullptr) return;
  Send(answer_->OnDelta(prompt, delta), prompt, 1);
  MaybeBegin();
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
  if (answer_->all_ended()) {
    Finish();
  } else {
    MaybeBegin();
  }
}

void HttpAnswer::Finish() {
  // Nothing is left that could be refused.
  accepted_ = true;
  MaybeBegin();
  const std::shared_ptr<AnswerSink> sink = std::move(sink_);
  sink_ = nullptr;
  flows_.clear();
  if (streaming_) {
    sink->SendEvents("data: [DONE]\n\n", nullptr);
    sink->EndStream();
    return;
  }
  HttpReply reply;
  reply.body = answer_->TakeBody();
  reply.headers = ReplyHeaders();
  sink->SendReply(std::move(reply));
}

void HttpAnswer::Acknowledge(size_t prompt, uint32_t num_deltas) {
  if (num_deltas == 0 || prompt >= flows_.size()) return;
  flows_[prompt]->Acknowledge(num_deltas);
}

void HttpAnswer::Send(absl::string_view events, size_t prompt,
                      uint32_t num_deltas) {
  if (events.empty()) {
    Acknowledge(prompt, num_deltas);
  } else if (!streaming_) {
    absl::StrAppend(&held_, events);
    held_deltas_[prompt] += num_deltas;
  } else if (num_deltas == 0) {
    sink_->SendEvents(events, nullptr);
  } else {
    sink_->SendEvents(events, [self = shared_from_this(), prompt, num_deltas] {
      self->Acknowledge(prompt, num_deltas);
    });
  }
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
