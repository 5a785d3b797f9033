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
  reactor->FinishOnce(status);
  return reactor.get();
}

void SubmitReactor::OnReplaced() {
  FinishOnce(absl::AbortedError("another reader took over"));
}

void SubmitReactor::OnWriteDone(bool ok) {
  std::optional<absl::Status> final_status;
  {
    MutexLock lock(mu_);
    writing_ = false;
    current_.reset();
    final_status = final_;
  }
  if (final_status.has_value()) {
    FinishOnce(*final_status);
  } else if (ok) {
    Advance();
  } else {
    FinishOnce(absl::CancelledError("the router is gone"));
  }
}

void SubmitReactor::OnCancel() {
  FinishOnce(absl::CancelledError("the router is gone"));
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

void SubmitReactor::Advance() {
  const v1::WorkerEvent* write = nullptr;
  std::optional<absl::Status> finish;
  {
    MutexLock lock(mu_);
    if (writing_ || finished_ || final_.has_value()) return;
    current_ = attempt_->Next(cursor_);
    if (current_ != nullptr) {
      writing_ = true;
      write = current_.get();
    } else {
      finish = attempt_->FinalStatus(cursor_);
      read_all_ = finish.has_value();
    }
  }
  if (write != nullptr) StartWrite(write);
  if (finish.has_value()) FinishOnce(*finish);
}

void SubmitReactor::FinishOnce(const absl::Status& status) {
  absl::Status first;
  {
    MutexLock lock(mu_);
    if (!final_.has_value()) final_ = status;
    if (writing_ || std::exchange(finished_, true)) return;
    first = *final_;
  }
  Finish(FinishStatus(first, *context_));
}

}  // namespace sluice::worker
