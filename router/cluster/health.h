#ifndef ROUTER_CLUSTER_HEALTH_H_
#define ROUTER_CLUSTER_HEALTH_H_

#include <algorithm>
#include <cstdint>

namespace sluice::router {

// What the report stream of one worker says of its life. A plain state
// machine; the control thread calls it with its own clock, in ms.
class StreamHealth {
 public:
  enum class Verdict { kDown, kUp, kSilent };

  explicit StreamHealth(int64_t silent_ms) : silent_ms_(silent_ms) {}

  void OnReport(int64_t now_ms) {
    up_ = true;
    last_report_ms_ = now_ms;
    backoff_ms_ = kFirstBackoffMs;
    down_since_ms_ = kNever;
  }
  // The stream ended, or could not be opened.
  void OnEnd(int64_t now_ms) {
    up_ = false;
    if (down_since_ms_ == kNever) down_since_ms_ = now_ms;
    if (Eager(now_ms)) {
      retry_at_ms_ = now_ms + kEagerPauseMs;
      return;
    }
    retry_at_ms_ = now_ms + backoff_ms_;
    backoff_ms_ = std::min(2 * backoff_ms_, kMaxBackoffMs);
  }
  // Down for so short a time that it may be starting: found within
  // milliseconds then.
  bool Eager(int64_t now_ms) const {
    return down_since_ms_ != kNever && now_ms - down_since_ms_ < kEagerMs;
  }
  // Down and due for another try.
  bool RetryDue(int64_t now_ms) const { return now_ms >= retry_at_ms_; }
  Verdict At(int64_t now_ms) const {
    if (!up_) return Verdict::kDown;
    return now_ms - last_report_ms_ >= silent_ms_ ? Verdict::kSilent
                                                  : Verdict::kUp;
  }
  int64_t silence_ms(int64_t now_ms) const { return now_ms - last_report_ms_; }

 private:
  static constexpr int64_t kNever = -1;
  static constexpr int64_t kEagerMs = 3000;
  static constexpr int64_t kEagerPauseMs = 20;
  static constexpr int64_t kFirstBackoffMs = 50;
  static constexpr int64_t kMaxBackoffMs = 1000;

  const int64_t silent_ms_;
  bool up_ = false;
  int64_t last_report_ms_ = 0;
  int64_t down_since_ms_ = kNever;
  int64_t retry_at_ms_ = 0;
  int64_t backoff_ms_ = kFirstBackoffMs;
};

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_HEALTH_H_
