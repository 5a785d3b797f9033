#ifndef WORKER_SERVER_ATTEMPT_H_
#define WORKER_SERVER_ATTEMPT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "kvtransfer/transfer_engine.h"
#include "proto/worker.pb.h"
#include "worker/engine/token_sink.h"

namespace sluice::worker {

struct AttemptInfo {
  std::string request_id;
  uint32_t attempt = 1;
  RequestKey key = 0;
  RequestPhase phase = RequestPhase::kBoth;
  int64_t orphan_ms = 1000;  // kept this long without a reader
  // For Admitted.
  std::string instance;
  uint64_t generation = 0;
};

// Told when an attempt has something new to read. Called from any thread
// without locks held.
class AttemptReader {
 public:
  virtual ~AttemptReader() = default;
  virtual void OnReadable() = 0;
  // Another reader took over.
  virtual void OnReplaced() = 0;
  // To end at once with `cause`, whatever is unread.
  virtual void OnCut(const absl::Status& cause) = 0;
};

// One attempt's output: a journal of events that a reader follows, so that a
// stream that broke can be taken up again by (request id, attempt). Written by
// the engine and transfer threads, read by gRPC's; one mutex.
class Attempt final : public TokenSink {
 public:
  Attempt(AttemptInfo info, const Clock& clock);

  const AttemptInfo& info() const { return info_; }

  // The reader gets every event from the start on, without tokens before
  // next_position (choice -> position).
  void Attach(const std::shared_ptr<AttemptReader>& reader,
              std::map<uint32_t, uint32_t> next_position);
  // `done`: it has read the final status.
  void Detach(const AttemptReader* reader, bool done);

  // Where a reader is. The event, or the final status when all are read, or
  // neither: wait for OnReadable().
  struct Cursor {
    size_t next = 0;
  };
  std::shared_ptr<const v1::WorkerEvent> Next(Cursor& cursor);
  std::optional<absl::Status> FinalStatus(const Cursor& cursor) const;

  // Ends the reader there is, if any, whatever it has not read.
  void CutReader(const absl::Status& cause);
  // Nobody will come for what is unread.
  void SetUnwanted();

  // Without a reader for orphan_ms, finished or not; at once when it is
  // finished and was read to the end or is unwanted.
  bool Expired() const;
  bool finished() const;
  // True the first time only: its orphan is ended once.
  bool MarkOrphaned();

  // Runs once, on the engine thread, at the final status. Set before the
  // engine knows of the attempt.
  void set_on_finished(std::function<void()> on_finished) {
    on_finished_ = std::move(on_finished);
  }
  // Runs with true when the journal is more than kMaxAheadBytes ahead of its
  // reader, then with false when the reader has caught up to half of that.
  // From any thread, under the lock: it must not call back. Set before the
  // engine knows of the attempt.
  void set_on_backlog(std::function<void(bool)> on_backlog) {
    on_backlog_ = std::move(on_backlog);
  }
  static constexpr uint64_t kMaxAheadBytes = 1u << 20;

  uint64_t journal_bytes() const;

  // Decode: the ticket for the router. Prefill: how the transfer ended.
  void OnTicket(const v1::Ticket& ticket);
  void OnReceived(const kvtransfer::TransferResult& result);
  void OnSent(const std::string& transfer_id,
              const kvtransfer::TransferResult& result);

  void OnStarted(uint32_t cached_tokens) override;
  void OnPromptLogprobs(std::vector<TokenLogprobs> positions) override;
  void OnTokens(TokenRun run) override;
  void OnPreempted() override;
  void OnChoiceEnded(const ChoiceEnding& ending) override;
  void OnFinished(const absl::Status& status, const Usage& usage) override;

 private:
  struct Entry {
    std::shared_ptr<const v1::WorkerEvent> event;
    uint64_t end_bytes = 0;  // of the journal up to and with it
  };

  void Append(v1::WorkerEvent event,
              std::optional<absl::Status> final_status = std::nullopt);
  void AppendAdmitted(const v1::Ticket* ticket);
  void UpdateBacklog() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const AttemptInfo info_;
  const Clock& clock_;
  const int64_t submitted_us_;
  std::function<void()> on_finished_;
  std::function<void(bool)> on_backlog_;
  mutable Mutex mu_;
  std::vector<Entry> journal_ ABSL_GUARDED_BY(mu_);
  uint64_t journal_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t read_bytes_ ABSL_GUARDED_BY(mu_) = 0;  // of those, by the reader
  bool backlogged_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<AttemptReader> reader_ ABSL_GUARDED_BY(mu_);
  std::map<uint32_t, uint32_t> next_position_ ABSL_GUARDED_BY(mu_);
  bool fully_read_ ABSL_GUARDED_BY(mu_) = false;
  bool orphaned_ ABSL_GUARDED_BY(mu_) = false;
  bool unwanted_ ABSL_GUARDED_BY(mu_) = false;
  int64_t unread_since_us_ ABSL_GUARDED_BY(mu_);
  uint32_t cached_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  v1::Timing timing_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_ATTEMPT_H_
