#ifndef BASE_HEALTH_H_
#define BASE_HEALTH_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"

namespace sluice {

// Proof of life of one loop. Tick() at each turn; SetIdle(true) before waiting
// without a bound on time, SetIdle(false) after. The loop's own thread calls;
// any thread reads.
class Heartbeat {
 public:
  Heartbeat(std::string name, int64_t timeout_ms, const Clock& clock)
      : name_(std::move(name)), timeout_ms_(timeout_ms), clock_(clock) {
    Tick();
  }

  void Tick() { last_ms_.store(clock_.NowMs(), std::memory_order_relaxed); }
  void SetIdle(bool idle) {
    Tick();
    idle_.store(idle, std::memory_order_relaxed);
  }
  bool alive() const {
    return idle_.load(std::memory_order_relaxed) ||
           clock_.NowMs() - last_ms_.load(std::memory_order_relaxed) <=
               timeout_ms_;
  }
  const std::string& name() const { return name_; }

 private:
  const std::string name_;
  const int64_t timeout_ms_;
  const Clock& clock_;
  std::atomic<int64_t> last_ms_{0};
  std::atomic<bool> idle_{false};
};

enum class ServingStatus { kServing, kNotServing, kUnknownService };

struct HealthOptions {
  std::vector<std::string> reasons;   // the closed set; why it is not ready
  std::vector<std::string> initial;   // those that hold at the start
  std::vector<std::string> services;  // full names that answer readiness
  const Clock* clock = &SystemClock::Get();
};

// What a process says of itself. Live: every heartbeat beats. Ready: no reason
// holds. Any thread. Knows the service names "" and "ready" (readiness), "live"
// (liveness) and those given.
class HealthBoard {
 public:
  explicit HealthBoard(HealthOptions options);

  // `reason` must be of the set (CHECK).
  void SetReason(absl::string_view reason, bool holds);
  // A reason asked for at every read, besides what SetReason said; `holds`
  // must be fast and callable from any thread as long as the board lives.
  void AddReasonCheck(absl::string_view reason, std::function<bool()> holds);
  // Lives as long as the board.
  Heartbeat& AddHeartbeat(std::string name, int64_t timeout_ms = 5000);

  bool live() const;
  bool ready() const { return reasons().empty(); }
  std::vector<std::string> reasons() const;     // that hold, in set order
  std::vector<std::string> dead_loops() const;  // heartbeats that do not beat

  ServingStatus Status(absl::string_view service) const;
  std::vector<std::string> services() const;  // all known names, sorted

  // Runs after each SetReason() that changed something, on its thread.
  void AddListener(std::function<void()> changed);

  // sluice_ready{reason}: 1 where a reason holds, and reason="ready".
  void Export(MetricRegistry& registry) const;

 private:
  const Clock& clock_;
  const std::vector<std::string> all_reasons_;
  const std::vector<std::string> services_;
  mutable Mutex mu_;
  std::map<std::string, bool, std::less<>> holds_ ABSL_GUARDED_BY(mu_);
  std::multimap<std::string, std::function<bool()>> checks_
      ABSL_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Heartbeat>> heartbeats_ ABSL_GUARDED_BY(mu_);
  std::vector<std::function<void()>> listeners_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice

#endif  // BASE_HEALTH_H_
