#include "worker/server/request_table.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/thread.h"

namespace sluice::worker {
namespace {

// A cancel overtakes its Submit by little: both come over one connection. Not
// longer, because a client may use its request id again.
constexpr int64_t kRememberCancelUs = 5'000'000;
constexpr size_t kMaxEarlyCancels = 65536;
constexpr std::chrono::milliseconds kSweepEvery(50);

}  // namespace

RequestTable::RequestTable(const Clock& clock, Cancel cancel)
    : clock_(clock), cancel_(std::move(cancel)) {
  sweeper_ = StartThread("request_table", [this](std::stop_token stop) {
    std::mutex mu;
    std::condition_variable_any wake;
    std::unique_lock<std::mutex> lock(mu);
    while (!wake.wait_for(lock, stop, kSweepEvery,
                          [&stop] { return stop.stop_requested(); })) {
      Sweep();
    }
  });
}

RequestTable::~RequestTable() = default;

absl::StatusOr<RequestTable::Entered> RequestTable::Enter(
    const AttemptInfo& info) {
  std::shared_ptr<Attempt> replaced;
  Entered entered;
  {
    MutexLock lock(mu_);
    const auto early = early_cancels_.find(info.request_id);
    if (early != early_cancels_.end() &&
        early->second.until_us > clock_.NowMicros() &&
        (early->second.attempt == 0 || info.attempt <= early->second.attempt)) {
      return early->second.cause;
    }
    std::shared_ptr<Attempt>& slot = attempts_[info.request_id];
    if (slot != nullptr && info.attempt < slot->info().attempt) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "attempt ", info.attempt, " is older than ",
                            slot->info().attempt)),
                        "STALE_ATTEMPT");
    }
    if (slot != nullptr && info.attempt == slot->info().attempt) {
      entered.attempt = slot;
      return entered;
    }
    replaced = std::exchange(slot, std::make_shared<Attempt>(info, clock_));
    entered.attempt = slot;
    entered.is_new = true;
  }
  if (replaced != nullptr && !replaced->finished()) {
    cancel_(replaced->info().key,
            absl::CancelledError("replaced by a later attempt"));
  }
  return entered;
}

absl::StatusOr<std::shared_ptr<Attempt>> RequestTable::Find(
    const std::string& request_id, uint32_t attempt) const {
  MutexLock lock(mu_);
  const auto it = attempts_.find(request_id);
  if (it == attempts_.end() || it->second->info().attempt != attempt) {
    return absl::NotFoundError(
        absl::StrCat("no attempt ", attempt, " of request ", request_id));
  }
  return it->second;
}

bool RequestTable::CancelRequest(const std::string& request_id,
                                 uint32_t attempt, const absl::Status& cause) {
  std::shared_ptr<Attempt> live;
  {
    MutexLock lock(mu_);
    const auto it = attempts_.find(request_id);
    if (it == attempts_.end() || attempt > it->second->info().attempt) {
      Remember(request_id, attempt, cause);
      return false;
    }
    if (attempt != 0 && attempt != it->second->info().attempt) return false;
    live = it->second;
  }
  live->SetUnwanted();
  if (live->finished()) return false;
  cancel_(live->info().key, cause);
  return true;
}

void RequestTable::Remember(const std::string& request_id, uint32_t attempt,
                            const absl::Status& cause) {
  const auto it = early_cancels_.find(request_id);
  if (it == early_cancels_.end() && early_cancels_.size() >= kMaxEarlyCancels) {
    return;  // its Submit runs until its reader is seen to be gone
  }
  EarlyCancel& early =
      it == early_cancels_.end() ? early_cancels_[request_id] : it->second;
  // The wider one of two holds.
  const bool all = attempt == 0 || (early.until_us != 0 && early.attempt == 0);
  early.attempt = all ? 0 : std::max(attempt, early.attempt);
  early.until_us = clock_.NowMicros() + kRememberCancelUs;
  early.cause = cause;
}

void RequestTable::CancelAll(const absl::Status& cause) {
  std::vector<RequestKey> keys;
  {
    MutexLock lock(mu_);
    for (const auto& [id, attempt] : attempts_) {
      if (!attempt->finished()) keys.push_back(attempt->info().key);
    }
  }
  for (const RequestKey key : keys) cancel_(key, cause);
}

void RequestTable::CutFinished(const absl::Status& cause) {
  std::vector<std::shared_ptr<Attempt>> finished;
  {
    MutexLock lock(mu_);
    for (const auto& [id, attempt] : attempts_) {
      if (attempt->finished()) finished.push_back(attempt);
    }
  }
  for (const std::shared_ptr<Attempt>& attempt : finished) {
    attempt->SetUnwanted();
    attempt->CutReader(cause);
  }
}

size_t RequestTable::size() const {
  MutexLock lock(mu_);
  return attempts_.size();
}

size_t RequestTable::orphans() const {
  MutexLock lock(mu_);
  size_t count = 0;
  for (const auto& [id, attempt] : attempts_) {
    count += attempt->Expired() && !attempt->finished();
  }
  return count;
}

uint64_t RequestTable::journal_bytes() const {
  MutexLock lock(mu_);
  uint64_t bytes = 0;
  for (const auto& [id, attempt] : attempts_) bytes += attempt->journal_bytes();
  return bytes;
}

uint64_t RequestTable::orphan_aborts() const {
  MutexLock lock(mu_);
  return orphan_aborts_;
}

void RequestTable::Sweep() {
  std::vector<RequestKey> orphans;
  {
    MutexLock lock(mu_);
    for (auto it = attempts_.begin(); it != attempts_.end();) {
      const auto current = it++;
      const std::shared_ptr<Attempt>& attempt = current->second;
      if (!attempt->Expired()) continue;
      if (attempt->finished()) {
        attempts_.erase(current);
      } else if (attempt->MarkOrphaned()) {
        orphans.push_back(attempt->info().key);
      }
    }
    orphan_aborts_ += orphans.size();
    const int64_t now_us = clock_.NowMicros();
    absl::erase_if(early_cancels_, [now_us](const auto& entry) {
      return entry.second.until_us <= now_us;
    });
  }
  for (const RequestKey key : orphans) {
    cancel_(key, absl::CancelledError("its router is gone"));
  }
}

}  // namespace sluice::worker
