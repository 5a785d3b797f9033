#include "router/flow/ejection.h"

#include <algorithm>

#include "base/log.h"

namespace sluice::router {
namespace {

constexpr size_t kMaxFailures = 3;
constexpr int64_t kWindowMs = 10'000;
constexpr int64_t kFirstTermMs = 5000;
constexpr int64_t kMaxTermMs = 60'000;
// A canary that has not told by then may have been lost.
constexpr int64_t kCanaryMs = 5000;

}  // namespace

void Ejections::OnFailure(const std::string& instance, uint64_t generation,
                          absl::string_view cause) {
  const int64_t now_ms = clock_.NowMs();
  MutexLock lock(mu_);
  any_ = true;
  Entry& entry = entries_[instance];
  if (generation < entry.generation) return;
  if (generation > entry.generation) entry = Entry{.generation = generation};
  if (entry.until_ms != 0) {
    // What was sent before the ejection tells nothing new.
    if (now_ms >= entry.until_ms) Eject(instance, entry, cause);
    return;
  }
  std::erase_if(entry.failures_ms,
                [&](int64_t at_ms) { return now_ms - at_ms >= kWindowMs; });
  entry.failures_ms.push_back(now_ms);
  if (entry.failures_ms.size() >= kMaxFailures) Eject(instance, entry, cause);
}

void Ejections::Eject(const std::string& instance, Entry& entry,
                      absl::string_view cause) {
  Log(kWarn, "worker ejection",
      {{"peer", instance},
       {"before", entry.until_ms == 0 ? "chosen" : "on probation"},
       {"after", "ejected"},
       {"cause", cause}});
  entry.failures_ms.clear();
  entry.canary_until_ms = 0;
  entry.term_ms = entry.term_ms == 0 ? kFirstTermMs
                                     : std::min(2 * entry.term_ms, kMaxTermMs);
  entry.until_ms = clock_.NowMs() + entry.term_ms;
}

void Ejections::OnSuccess(const std::string& instance, uint64_t generation) {
  if (!any_) return;
  MutexLock lock(mu_);
  const auto it = entries_.find(instance);
  if (it == entries_.end() || it->second.until_ms == 0 ||
      it->second.generation != generation ||
      clock_.NowMs() < it->second.until_ms) {
    return;
  }
  Log(kInfo, "worker ejection",
      {{"peer", instance},
       {"before", "on probation"},
       {"after", "chosen"},
       {"cause", "a request ended well"}});
  entries_.erase(it);
  any_ = !entries_.empty();
}

void Ejections::OnChosen(const std::string& instance) {
  if (!any_) return;
  const int64_t now_ms = clock_.NowMs();
  MutexLock lock(mu_);
  const auto it = entries_.find(instance);
  if (it == entries_.end() || it->second.until_ms == 0) return;
  if (now_ms >= it->second.until_ms) {
    it->second.canary_until_ms = now_ms + kCanaryMs;
  }
}

EjectedInstances Ejections::Now() const {
  EjectedInstances out;
  if (!any_) return out;
  const int64_t now_ms = clock_.NowMs();
  MutexLock lock(mu_);
  for (const auto& [instance, entry] : entries_) {
    if (now_ms < std::max(entry.until_ms, entry.canary_until_ms)) {
      out.emplace(instance, entry.generation);
    }
  }
  return out;
}

}  // namespace sluice::router
