#include "worker/server/submit_reactor.h"

#include <utility>

#include "base/grpc_status.h"

namespace sluice::worker {

using Reactor = grpc::ServerWriteReactor<v1::WorkerEvent>;

Reactor* SubmitReactor::Follow(grpc::CallbackServerContext* context,
                               const std::shared_ptr<Attempt>& attempt,
                               std::map<uint32_t, uint32_t> next_position) {
  auto reactor = std::make_shared<SubmitReactor>(context, attempt);
  reactor->self_ = reactor;
  reactor->StartSendInitialMetadata();
  attempt->Attach(reactor, std::move(next_position));
  return reactor.get();
}

Reactor* SubmitReactor::Refuse(grpc::CallbackServerContext* context,
                               const absl::Status& status) {
  auto reactor = std::make_shared<SubmitReactor>(context, nullptr);
  reactor->self_ = reactor;
  reactor->End(status);
  return reactor.get();
}

void SubmitReactor::OnReplaced() {
  End(absl::AbortedError("another reader took over"));
}

void SubmitReactor::OnCancel() {
  End(absl::CancelledError("the router is gone"));
}

void SubmitReactor::OnDone() {
  bool read_all = false;
  {
    MutexLock lock(mu_);
    read_all = read_all_;
  }
  if (attempt_ != nullptr) attempt_->Detach(this, read_all);
  const std::shared_ptr<SubmitReactor> last = std::move(self_);
}

const v1::WorkerEvent* SubmitReactor::NextMessage(
    std::optional<absl::Status>& end) {
  MutexLock lock(mu_);
  current_ = attempt_->Next(cursor_);
  if (current_ == nullptr) {
    end = attempt_->FinalStatus(cursor_);
    read_all_ = end.has_value();
  }
  return current_.get();
}

void SubmitReactor::EndCall(const absl::Status& status) {
  Finish(FinishStatus(status, *context_));
}

}  // namespace sluice::worker
