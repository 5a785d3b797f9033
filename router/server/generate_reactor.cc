#include "router/server/generate_reactor.h"

#include <utility>

#include "base/grpc_status.h"
#include "router/server/call_metadata.h"

namespace sluice::router {
namespace {

// A streamed message stays below 3 MiB: clients take 4 by default.
constexpr size_t kSplitBytes = 2u << 20;
constexpr uint64_t kMaxStartedBytes = 3u << 20;

}  // namespace

GenerateReactor* GenerateReactor::Make(Router& router,
                                       grpc::CallbackServerContext* context,
                                       const v1::GenerateRequest& request) {
  GenerateCall call;
  call.request = request;
  call.surface = Surface::kNative;
  call.stream = !request.final_only();
  call.max_prompt_logprobs_bytes = kMaxStartedBytes;
  if (request.final_only()) call.max_answer_bytes = kMaxGatheredBytes;
  call.rejected = ReadMetadata(*context, call);
  auto self = std::make_shared<GenerateReactor>(context, call.request);
  self->self_ = self;
  self->flow_ = router.NewFlow(std::move(call), self);
  context->AddInitialMetadata("x-sluice-request-id", self->flow_->request_id());
  return self.get();
}

GenerateReactor::Outgoing GenerateReactor::Wrap() const {
  Outgoing outgoing;
  outgoing.event.set_request_id(flow_->request_id());
  return outgoing;
}

void GenerateReactor::OnStarted(const StartedEvent& event) {
  Outgoing outgoing = Wrap();
  *outgoing.event.mutable_started() = event.started;
  Push(std::move(outgoing));
}

bool GenerateReactor::Trim(v1::TokenDelta& delta) const {
  if (output_ == v1::TOKENS) delta.clear_text();
  const bool has_tokens = delta.token_ids_size() > 0;
  if (output_ == v1::TEXT) delta.clear_token_ids();
  return !delta.text().empty() || delta.has_logprobs() ||
         (has_tokens && output_ != v1::TEXT);
}

void GenerateReactor::OnDelta(v1::TokenDelta delta) {
  if (!Trim(delta)) {
    flow_->Acknowledge(1);
    return;
  }
  if (final_only_) {
    flow_->Acknowledge(1);
    Collect(std::move(delta));
    return;
  }
  Outgoing outgoing = Wrap();
  *outgoing.event.mutable_delta() = std::move(delta);
  outgoing.num_deltas = 1;
  Push(std::move(outgoing));
}

void GenerateReactor::Collect(v1::TokenDelta delta) {
  const auto [it, first] =
      collected_.try_emplace(delta.choice(), std::move(delta));
  if (first) return;
  v1::TokenDelta& sum = it->second;
  sum.mutable_text()->append(delta.text());
  sum.mutable_token_ids()->MergeFrom(delta.token_ids());
  if (!delta.has_logprobs()) return;
  for (auto& position : *delta.mutable_logprobs()->mutable_positions()) {
    sum.mutable_logprobs()->add_positions()->Swap(&position);
  }
  if (sum.ByteSizeLong() < kSplitBytes) return;
  Outgoing outgoing = Wrap();
  *outgoing.event.mutable_delta() = std::move(sum);
  collected_.erase(it);
  Push(std::move(outgoing));
}

void GenerateReactor::OnChoiceEnd(const v1::ChoiceEnd& end) {
  if (auto it = collected_.find(end.choice()); it != collected_.end()) {
    Outgoing outgoing = Wrap();
    *outgoing.event.mutable_delta() = std::move(it->second);
    collected_.erase(it);
    Push(std::move(outgoing));
  }
  Outgoing outgoing = Wrap();
  *outgoing.event.mutable_choice_end() = end;
  Push(std::move(outgoing));
}

void GenerateReactor::OnEnd(const EndEvent& end) {
  if (end.status.ok()) {
    Outgoing outgoing = Wrap();
    *outgoing.event.mutable_end() = end.usage;
    if (!include_timing_) outgoing.event.mutable_end()->clear_timing();
    Push(std::move(outgoing));
  }
  {
    MutexLock lock(mu_);
    final_ = end.status;
  }
  Advance();
}

void GenerateReactor::Push(Outgoing outgoing) {
  {
    MutexLock lock(mu_);
    if (broken_) return;
    queue_.push_back(std::move(outgoing));
  }
  Advance();
}

void GenerateReactor::Advance() {
  std::optional<absl::Status> finish;
  {
    MutexLock lock(mu_);
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      current_ = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
    } else if (final_.has_value()) {
      finished_ = true;
      finish = *final_;
    } else {
      return;
    }
  }
  if (finish.has_value()) {
    Finish(FinishStatus(*finish, *context_));
  } else {
    StartWrite(&current_.event);
  }
}

void GenerateReactor::OnWriteDone(bool ok) {
  const uint32_t written = current_.num_deltas;
  {
    MutexLock lock(mu_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      queue_.clear();
    }
  }
  // Not acknowledged when broken: the flow is about to be cancelled.
  if (ok && written > 0) flow_->Acknowledge(written);
  Advance();
}

void GenerateReactor::OnCancel() { flow_->Cancel(CancelCause::kClient); }

void GenerateReactor::OnDone() {
  std::shared_ptr<GenerateReactor> last = std::move(self_);
}

}  // namespace sluice::router
