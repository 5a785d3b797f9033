#ifndef BASE_CLOCK_H_
#define BASE_CLOCK_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace sluice {

// Time as a parameter. Now*() is monotonic and starts anywhere; Unix*() is
// wall time and only for what leaves the process. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowMicros() const = 0;
  virtual int64_t UnixMicros() const = 0;

  int64_t NowMs() const { return NowMicros() / 1000; }
};

class SystemClock final : public Clock {
 public:
  int64_t NowMicros() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  int64_t UnixMicros() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  // One for the process; never destroyed.
  static SystemClock& Get() {
    static SystemClock* clock = new SystemClock;
    return *clock;
  }
};

// Moves only when a test says so.
class FakeClock final : public Clock {
 public:
  int64_t NowMicros() const override { return now_us_.load(); }
  int64_t UnixMicros() const override {
    return now_us_.load() + unix_offset_us_;
  }
  void AdvanceMs(int64_t ms) { now_us_ += ms * 1000; }
  void AdvanceMicros(int64_t us) { now_us_ += us; }

 private:
  std::atomic<int64_t> now_us_{1'000'000};
  static constexpr int64_t unix_offset_us_ = 1'700'000'000'000'000;
};

}  // namespace sluice

#endif  // BASE_CLOCK_H_
