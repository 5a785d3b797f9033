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

namespace sluice::worker {

// A server stream fed by Push() from any thread: one write at a time, the rest
// waits. A reader that is kMaxQueued messages behind is ended with
// RESOURCE_EXHAUSTED. Kept alive by itself until OnDone().
template <typename Message>
class QueueReactor final
    : public grpc::ServerWriteReactor<Message>,
      public std::enable_shared_from_this<QueueReactor<Message>> {
 public:
  static constexpr size_t kMaxQueued = 1024;

  // `on_done` runs once, when the stream is over for any reason.
  static std::shared_ptr<QueueReactor> Start(std::function<void()> on_done) {
    auto reactor = std::make_shared<QueueReactor>();
    reactor->self_ = reactor;
    reactor->on_done_ = std::move(on_done);
    return reactor;
  }

  void Push(Message message) {
    bool full = false;
    {
      MutexLock lock(mu_);
      full = queue_.size() >= kMaxQueued;
      if (!full) queue_.push_back(std::move(message));
    }
    if (full) {
      End(absl::ResourceExhaustedError("the reader is too slow"));
    } else {
      Advance();
    }
  }

  // Ends the stream once everything pushed is written; the first call counts.
  void End(const absl::Status& status) {
    {
      MutexLock lock(mu_);
      if (!final_.has_value()) final_ = status;
      if (!status.ok()) queue_.clear();
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      writing_ = false;
    }
    if (ok) {
      Advance();
    } else {
      End(absl::CancelledError("the reader is gone"));
    }
  }
  void OnCancel() override { End(absl::CancelledError("the reader is gone")); }
  void OnDone() override {
    if (on_done_) on_done_();
    const std::shared_ptr<QueueReactor> last = std::move(self_);
  }

 private:
  void Advance() {
    bool write = false;
    std::optional<absl::Status> finish;
    {
      MutexLock lock(mu_);
      if (writing_ || finished_) return;
      if (!queue_.empty()) {
        current_ = std::move(queue_.front());
        queue_.pop_front();
        write = writing_ = true;
      } else if (final_.has_value()) {
        finished_ = true;
        finish = final_;
      }
    }
    if (write) this->StartWrite(&current_);
    if (finish.has_value()) this->Finish(ToGrpcStatus(*finish));
  }

  std::shared_ptr<QueueReactor> self_;
  std::function<void()> on_done_;
  Mutex mu_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  Message current_;  // gRPC reads it while `writing_`
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_QUEUE_REACTOR_H_
