#ifndef WORKER_SERVER_REQUEST_TABLE_H_
#define WORKER_SERVER_REQUEST_TABLE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "worker/server/attempt.h"

namespace sluice::worker {

// Live attempts by request id: at most one per request, the highest seen. Any
// thread. A thread of its own ends attempts whose reader stays away and
// forgets what is over.
class RequestTable {
 public:
  // `cancel` ends an attempt at the engine.
  using Cancel = std::function<void(RequestKey, absl::Status)>;
  RequestTable(const Clock& clock, Cancel cancel);
  ~RequestTable();

  struct Entered {
    std::shared_ptr<Attempt> attempt;
    bool is_new = false;  // to be submitted to the engine by the caller
  };
  // The attempt to follow. A repeat of the current one returns it; a higher
  // one replaces it. kFailedPrecondition, reason STALE_ATTEMPT, for a lower
  // one; the cause of a cancel of it that came first.
  absl::StatusOr<Entered> Enter(const AttemptInfo& info);
  // kNotFound unless (request_id, attempt) is here.
  absl::StatusOr<std::shared_ptr<Attempt>> Find(const std::string& request_id,
                                                uint32_t attempt) const;
  // Ends attempts of `request_id`: all, or only `attempt` if not 0; what they
  // have written and nobody reads is dropped. A cancel that is ahead of its
  // Submit is remembered for a while, for that attempt and older ones. False
  // when nothing was live.
  bool CancelRequest(const std::string& request_id, uint32_t attempt,
                     const absl::Status& cause);
  void CancelAll(const absl::Status& cause);
  // Drops the finished attempts, and ends their readers with `cause`.
  void CutFinished(const absl::Status& cause);

  size_t size() const;
  // Attempts without a reader, and how many were ended for that.
  size_t orphans() const;
  uint64_t orphan_aborts() const;
  // Events kept of all attempts.
  uint64_t journal_bytes() const;

 private:
  // A cancel that came before what it names.
  struct EarlyCancel {
    uint32_t attempt = 0;  // this one and older ones; 0: all
    int64_t until_us = 0;
    absl::Status cause;
  };

  void Remember(const std::string& request_id, uint32_t attempt,
                const absl::Status& cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Sweep();

  const Clock& clock_;
  const Cancel cancel_;
  mutable Mutex mu_;
  absl::flat_hash_map<std::string, std::shared_ptr<Attempt>> attempts_
      ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, EarlyCancel> early_cancels_
      ABSL_GUARDED_BY(mu_);
  uint64_t orphan_aborts_ ABSL_GUARDED_BY(mu_) = 0;
  std::jthread sweeper_;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_REQUEST_TABLE_H_
