#ifndef WORKER_HANDOFF_LINK_REACTOR_H_
#define WORKER_HANDOFF_LINK_REACTOR_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "proto/kv.pb.h"
#include "worker/handoff/kv_links.h"

namespace sluice::worker {

// One Link stream over either kind of gRPC bidi reactor (server or client):
// `Reactor` has StartRead, StartWrite, OnReadDone and OnWriteDone, and the
// subclass says how the stream is ended from this side. At most one write is
// in flight; a stream that cannot keep up with kMaxQueued messages is closed.
// Kept alive by `self_` until the subclass calls Release() in OnDone().
template <typename Reactor>
class LinkReactor : public Reactor,
                    public LinkWriter,
                    public std::enable_shared_from_this<LinkReactor<Reactor>> {
 public:
  LinkReactor(KvLinks& links, std::string peer)
      : links_(links), peer_(std::move(peer)) {}

  void Send(v1::KvMessage message) override {
    bool full = false;
    bool write = false;
    {
      MutexLock lock(mu_);
      if (end_.has_value()) return;
      full = queue_.size() >= kMaxQueued;
      if (!full) {
        queue_.push_back(std::move(message));
        write = NextWrite();
      }
    }
    if (write) this->StartWrite(&writing_);
    if (full) Close();
  }

  void Close() override { End(absl::UnavailableError("link closed")); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Close();
      return;
    }
    const absl::Status status = links_.Receive(peer_, reading_);
    if (status.ok()) {
      this->StartRead(&reading_);
    } else {
      End(status);
    }
  }

  void OnWriteDone(bool ok) override {
    bool write = false;
    std::optional<absl::Status> end;
    {
      MutexLock lock(mu_);
      in_flight_ = false;
      if (end_.has_value()) {
        end = end_;
      } else {
        write = ok && NextWrite();
      }
    }
    if (end.has_value()) {
      EndStream(*end);
    } else if (write) {
      this->StartWrite(&writing_);
    } else if (!ok) {
      Close();
    }
  }

 protected:
  static constexpr size_t kMaxQueued = 65536;

  // Registers the stream and starts reading.
  void Begin() {
    self_ = this->shared_from_this();
    links_.Open(peer_, self_);
    this->StartRead(&reading_);
  }
  // Last act: nothing of the object may be used after it.
  void Release(const absl::Status& status) {
    links_.Ended(peer_, this, status);
    self_.reset();
  }
  // Makes what is in flight return. Any number of times.
  virtual void CancelCall() = 0;
  // Called once, outside the lock, with no write in flight.
  virtual void EndStream(const absl::Status& status) = 0;

  KvLinks& links_;
  const std::string peer_;

 private:
  // The first call counts. A write in flight still needs the call: it is
  // cancelled, and the stream ends when the write has returned.
  void End(const absl::Status& status) {
    bool writing = false;
    {
      MutexLock lock(mu_);
      if (end_.has_value()) return;
      end_ = status;
      writing = in_flight_;
    }
    if (writing) {
      CancelCall();
    } else {
      EndStream(status);
    }
  }

  bool NextWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (in_flight_ || queue_.empty()) return false;
    writing_ = std::move(queue_.front());
    queue_.pop_front();
    in_flight_ = true;
    return true;
  }

  std::shared_ptr<LinkReactor> self_;
  v1::KvMessage reading_;  // gRPC's while a read is pending
  v1::KvMessage writing_;  // gRPC's while `in_flight_`
  Mutex mu_;
  std::deque<v1::KvMessage> queue_ ABSL_GUARDED_BY(mu_);
  bool in_flight_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_LINK_REACTOR_H_
