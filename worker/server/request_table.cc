#include "worker/server/request_table.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/thread.h"

namespace sluice::worker {
namespace {

constexpr int64_t kRememberCancelUs = 60'000'000;
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
    const auto cancelled = cancelled_until_us_.find(info.request_id);
    if (cancelled != cancelled_until_us_.end() &&
        cancelled->second > clock_.NowMicros()) {
      return absl::CancelledError("cancelled");
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
  RequestKey key = 0;
  {
    MutexLock lock(mu_);
    const auto it = attempts_.find(request_id);
    if (it == attempts_.end()) {
      cancelled_until_us_[request_id] = clock_.NowMicros() + kRememberCancelUs;
      return false;
    }
    if (attempt != 0 && attempt != it->second->info().attempt) return false;
    if (it->second->finished()) return false;
    key = it->second->info().key;
  }
  cancel_(key, cause);
  return true;
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

size_t RequestTable::size() const {
  MutexLock lock(mu_);
  return attempts_.size();
}

size_t RequestTable::orphans() const {
  MutexLock lock(mu_);
  size_t count = 0;
  for (const auto& [id, attempt] : attempts_) count += attempt->Expired();
  return count;
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
    absl::erase_if(cancelled_until_us_, [now_us](const auto& entry) {
      return entry.second <= now_us;
    });
  }
  for (const RequestKey key : orphans) {
    cancel_(key, absl::CancelledError("its router is gone"));
  }
}

}  // namespace sluice::worker
