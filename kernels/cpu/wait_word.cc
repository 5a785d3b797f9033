#include "kernels/cpu/wait_word.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <utility>

namespace sluice::kernels {
namespace {

using Nanos = int64_t;

// A wait begins by pausing alone. When somebody else wants our cores it also
// offers its own at every look after a few microseconds (a sched_yield with
// nobody waiting costs about 0.3 us); it ends on a futex.
constexpr Nanos kPause = 5'000;
constexpr Nanos kSpin = 50'000;
constexpr int kPausesPerLook = 16;

// Looks this far apart: another thread had the core meanwhile.
constexpr Nanos kTakenAway = 20'000;
// How long the last sign of others counts.
constexpr Nanos kWantedFor = 10'000'000;

// When the cores of this process were last seen to be wanted by others, plus
// kWantedFor. A hint: it only decides how a wait spends its time.
std::atomic<Nanos> wanted_until{0};

Nanos Now() {
  return std::chrono::nanoseconds(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void Futex(const std::atomic<uint32_t>& word, int operation, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<const uint32_t*>(&word), operation, value,
          nullptr, nullptr, 0);
}

}  // namespace

// Sequentially consistent, as are the sleeper's count and its look at the
// value: one of the two sees the other.
void WaitWord::Set(uint32_t value) {
  value_.store(value, std::memory_order_seq_cst);
  WakeSleepers();
}

void WaitWord::CountDown() {
  if (value_.fetch_sub(1, std::memory_order_seq_cst) == 1) WakeSleepers();
}

void WaitWord::WakeSleepers() {
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  Futex(value_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

void WaitWord::WaitUntilZero() {
  uint32_t now = value_.load(std::memory_order_acquire);
  while (now != 0) now = Wait(now, true);
}

uint32_t WaitWord::Wait(uint32_t old, bool in_step) {
  uint32_t now = value_.load(std::memory_order_acquire);
  if (now != old) return now;
  const Nanos start = Now();
  for (Nanos look = start; look - start < kSpin;) {
    for (int i = 0; i < kPausesPerLook; ++i) {
      _mm_pause();
      now = value_.load(std::memory_order_acquire);
      if (now != old) return now;
    }
    const Nanos wanted = wanted_until.load(std::memory_order_relaxed);
    if (look < wanted && look - start >= kPause) sched_yield();
    const Nanos last = std::exchange(look, Now());
    if (look - last > kTakenAway) {
      wanted_until.store(look + kWantedFor, std::memory_order_relaxed);
    }
  }
  // Work is cut so that threads end together: one of them has no core.
  if (in_step) {
    wanted_until.store(Now() + kWantedFor, std::memory_order_relaxed);
  }
  return Sleep(old);
}

uint32_t WaitWord::SleepForChange(uint32_t old) {
  const uint32_t now = value_.load(std::memory_order_acquire);
  return now != old ? now : Sleep(old);
}

uint32_t WaitWord::Sleep(uint32_t old) {
  uint32_t now = old;
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while ((now = value_.load(std::memory_order_seq_cst)) == old) {
    Futex(value_, FUTEX_WAIT_PRIVATE, old);
  }
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return now;
}

}  // namespace sluice::kernels
