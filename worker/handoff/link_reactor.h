#ifndef WORKER_HANDOFF_LINK_REACTOR_H_
#define WORKER_HANDOFF_LINK_REACTOR_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "base/stream_writer.h"
#include "proto/kv.pb.h"
#include "worker/handoff/kv_links.h"

namespace sluice::worker {

// One Link stream over either kind of gRPC bidi reactor (server or client):
// `Reactor` has StartRead, StartWrite, OnReadDone and OnWriteDone, and the
// subclass says how the call is cancelled and ended from this side. A stream
// that cannot keep up with kMaxQueued messages is closed. Kept alive by `self_`
// until the subclass calls Release() in OnDone().
template <typename Reactor>
class LinkReactor : public StreamWriter<Reactor, v1::KvMessage>,
                    public LinkWriter,
                    public std::enable_shared_from_this<LinkReactor<Reactor>> {
 public:
  LinkReactor(KvLinks& links, std::string peer)
      : links_(links), peer_(std::move(peer)) {}

  void Send(v1::KvMessage message) override {
    if (this->ending()) return;
    bool full = false;
    {
      MutexLock lock(queue_mu_);
      full = queue_.size() >= kMaxQueued;
      if (!full) queue_.push_back(std::move(message));
    }
    if (full) {
      Close();
    } else {
      this->Advance();
    }
  }

  void Close() override { this->EndNow(absl::UnavailableError("link closed")); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Close();
      return;
    }
    const absl::Status status = links_.Receive(peer_, reading_);
    if (status.ok()) {
      this->StartRead(&reading_);
    } else {
      this->EndNow(status);
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
    const std::shared_ptr<LinkReactor> last = std::move(self_);
  }

  KvLinks& links_;
  const std::string peer_;

 private:
  const v1::KvMessage* NextMessage(std::optional<absl::Status>&) override {
    MutexLock lock(queue_mu_);
    if (queue_.empty()) return nullptr;
    current_ = std::move(queue_.front());
    queue_.pop_front();
    return &current_;
  }

  std::shared_ptr<LinkReactor> self_;
  v1::KvMessage reading_;  // gRPC's while a read is pending
  v1::KvMessage current_;  // gRPC's while a write is in flight
  Mutex queue_mu_;
  std::deque<v1::KvMessage> queue_ ABSL_GUARDED_BY(queue_mu_);
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_LINK_REACTOR_H_
