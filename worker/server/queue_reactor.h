#ifndef WORKER_SERVER_QUEUE_REACTOR_H_
#define WORKER_SERVER_QUEUE_REACTOR_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "base/grpc_status.h"
#include "base/mutex.h"
#include "base/stream_writer.h"

namespace sluice::worker {

// A server stream fed by Push() from any thread. A reader that is kMaxQueued
// messages behind is cut off. Kept alive by itself until OnDone().
template <typename Message>
class QueueReactor final
    : public StreamWriter<grpc::ServerWriteReactor<Message>, Message> {
 public:
  static constexpr size_t kMaxQueued = 1024;

  // `context` lives until OnDone(), as gRPC promises. `on_done` runs once, when
  // the stream is over for any reason.
  static std::shared_ptr<QueueReactor> Start(
      grpc::CallbackServerContext* context, std::function<void()> on_done) {
    auto reactor = std::make_shared<QueueReactor>(context);
    reactor->self_ = reactor;
    reactor->on_done_ = std::move(on_done);
    return reactor;
  }

  explicit QueueReactor(grpc::CallbackServerContext* context)
      : context_(context) {}

  // No effect on a stream that ends.
  void Push(Message message) {
    if (this->ending()) return;
    bool full = false;
    {
      MutexLock lock(mu_);
      full = queue_.size() >= kMaxQueued;
      if (!full) queue_.push_back(std::move(message));
    }
    if (full) {
      this->EndNow(absl::ResourceExhaustedError("the reader is too slow"));
    } else {
      this->Advance();
    }
  }

  // Ends the stream well once everything pushed is written.
  void Close() {
    {
      MutexLock lock(mu_);
      closed_ = true;
    }
    this->Advance();
  }

  void OnCancel() override {
    this->End(absl::CancelledError("the reader is gone"));
  }
  void OnDone() override {
    if (on_done_) on_done_();
    const std::shared_ptr<QueueReactor> last = std::move(self_);
  }

 private:
  const Message* NextMessage(std::optional<absl::Status>& end) override {
    MutexLock lock(mu_);
    if (queue_.empty()) {
      if (closed_) end = absl::OkStatus();
      return nullptr;
    }
    current_ = std::move(queue_.front());
    queue_.pop_front();
    return &current_;
  }
  void CancelCall() override { context_->TryCancel(); }
  void EndCall(const absl::Status& status) override {
    this->Finish(ToGrpcStatus(status));
  }

  grpc::CallbackServerContext* const context_;
  std::shared_ptr<QueueReactor> self_;
  std::function<void()> on_done_;
  Message current_;  // gRPC's while a write is in flight
  Mutex mu_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_QUEUE_REACTOR_H_
