#ifndef KERNELS_CPU_WAIT_WORD_H_
#define KERNELS_CPU_WAIT_WORD_H_

#include <atomic>
#include <cstdint>

namespace sluice::kernels {

// A number that threads wait on: by spinning, which is a matter of nanoseconds
// while every thread has its core; giving way once others are seen to want the
// cores; on a futex after 50 us. A change costs no system call unless a thread
// sleeps on this very word (std::atomic's waiters share a few counts, so that
// any sleeper makes every notify a call). Any thread.
class WaitWord {
 public:
  explicit WaitWord(uint32_t value = 0) : value_(value) {}
  WaitWord(const WaitWord&) = delete;
  WaitWord& operator=(const WaitWord&) = delete;

  uint32_t value() const { return value_.load(std::memory_order_relaxed); }

  // What was written before is seen by who waits for the change.
  void Set(uint32_t value);
  // One less; wakes sleepers at 0 only.
  void CountDown();

  // The value once it differs from `old`.
  uint32_t WaitForChange(uint32_t old) { return Wait(old, false); }
  // The same for a thread that is not to take a core meanwhile: sleeps at once.
  uint32_t SleepForChange(uint32_t old);
  // For what other threads are at work on.
  void WaitUntilZero();

 private:
  uint32_t Wait(uint32_t old, bool in_step);
  uint32_t Sleep(uint32_t old);
  void WakeSleepers();

  std::atomic<uint32_t> value_;
  std::atomic<uint32_t> sleepers_{0};
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_WAIT_WORD_H_
