#ifndef BASE_STREAM_WRITER_H_
#define BASE_STREAM_WRITER_H_

#include <optional>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace sluice {

// The writing half of a gRPC stream: at most one write is in flight, and the
// call is ended once, when no write is in flight and no cancel of ours is under
// way, because gRPC needs the call until both have returned. `Reactor` is a
// server or client reactor with StartWrite and OnWriteDone. Any thread; nothing
// is called with the lock held but NextMessage().
//
// EndCall() may destroy the object: whoever calls a method from outside of
// gRPC's callbacks keeps it alive meanwhile.
template <typename Reactor, typename Message>
class StreamWriter : public Reactor {
 public:
  // Ends the stream with the first status given, when the write in flight has
  // returned; what waits is not written. A peer that does not read can hold
  // that up for ever.
  void End(const absl::Status& status) {
    {
      MutexLock lock(mu_);
      if (!end_.has_value()) end_ = status;
    }
    Advance();
  }

  // As End(), but a write in flight is made to return: the call is cancelled,
  // and the peer may see that instead of the status.
  void EndNow(const absl::Status& status) {
    bool cancel = false;
    {
      MutexLock lock(mu_);
      if (!end_.has_value()) end_ = status;
      cancel = writing_;
      cancels_ += cancel;
    }
    if (cancel) {
      CancelCall();
      MutexLock lock(mu_);
      --cancels_;
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      writing_ = false;
      if (!ok && !end_.has_value()) {
        end_ = absl::CancelledError("the reader is gone");
      }
    }
    Advance();
  }

 protected:
  // Starts the next write, or ends the call when that is due. To be called when
  // there may be a message.
  void Advance() {
    const Message* message = nullptr;
    std::optional<absl::Status> end;
    {
      MutexLock lock(mu_);
      if (writing_ || cancels_ > 0 || ended_) return;
      if (!end_.has_value()) message = NextMessage(end_);
      if (message != nullptr) {
        writing_ = true;
      } else if (end_.has_value()) {
        ended_ = true;
        end = end_;
      }
    }
    if (message != nullptr) {
      this->StartWrite(message);
    } else if (end.has_value()) {
      EndCall(*end);
    }
  }

  // An end has been asked for: what comes now is not written.
  bool ending() {
    MutexLock lock(mu_);
    return end_.has_value();
  }

  // The next message, unchanged until the next call; or null, and `end` set if
  // none will come. Called under the lock, one call at a time.
  virtual const Message* NextMessage(std::optional<absl::Status>& end) = 0;
  // Makes what is in flight return.
  virtual void CancelCall() = 0;
  // Called once: nothing is in flight and nothing will be written.
  virtual void EndCall(const absl::Status& status) = 0;

 private:
  Mutex mu_;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  int cancels_ ABSL_GUARDED_BY(mu_) = 0;  // CancelCall()s under way
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sluice

#endif  // BASE_STREAM_WRITER_H_
