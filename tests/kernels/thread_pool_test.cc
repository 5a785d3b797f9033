#include "kernels/cpu/thread_pool.h"

#include <immintrin.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::kernels {
namespace {

TEST(ThreadPool, EachThreadWorksOncePerRun) {
  for (int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.num_threads(), threads);
    std::vector<int> plain(static_cast<size_t>(threads), 0);
    for (int run = 1; run <= 2000; ++run) {
      pool.Run([&](int thread) { ++plain[static_cast<size_t>(thread)]; });
      // Not atomic: Run() orders the workers' writes before this read.
      for (int count : plain) ASSERT_EQ(count, run);
    }
  }
}

TEST(ThreadPool, WakesSleepingThreads) {
  ThreadPool pool(3);
  std::atomic<int> done{0};
  for (int run = 0; run < 5; ++run) {
    // Long enough for spinning workers to go to sleep; only the path taken
    // depends on it, not the result.
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    pool.Run([&](int) { done.fetch_add(1); });
  }
  EXPECT_EQ(done.load(), 15);
}

TEST(ThreadPool, CallerSleepsUntilTheSlowestIsDone) {
  ThreadPool pool(2);
  bool finished = false;
  pool.Run([&](int thread) {
    if (thread == 0) return;
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    finished = true;
  });
  EXPECT_TRUE(finished);
}

TEST(ThreadPool, ComputesWithFlushToZeroAndRestoresTheCaller) {
  ThreadPool pool(3);
  const unsigned before = _mm_getcsr();
  _mm_setcsr(0x1f80);
  std::vector<unsigned> seen(3);
  pool.Run(
      [&](int thread) { seen[static_cast<size_t>(thread)] = _mm_getcsr(); });
  EXPECT_EQ(_mm_getcsr() & ~0x3fu, 0x1f80u);
  for (unsigned mxcsr : seen) EXPECT_EQ(mxcsr & ~0x3fu, 0x9fc0u);
  _mm_setcsr(before);
}

// CPUs that every thread of `pool` may use, by index.
std::vector<cpu_set_t> AffinityOf(ThreadPool& pool) {
  std::vector<cpu_set_t> sets(static_cast<size_t>(pool.num_threads()));
  std::atomic<int> there{0};
  pool.Run([&](int thread) {
    // Each of its own thread, then.
    there.fetch_add(1);
    while (there.load() < pool.num_threads()) std::this_thread::yield();
    CPU_ZERO(&sets[thread]);
    sched_getaffinity(0, sizeof(cpu_set_t), &sets[thread]);
  });
  return sets;
}

TEST(ThreadPool, PinsThreadsToCpusOfTheirOwnWhenThereAreAsMany) {
  std::thread([] {  // whose affinity may change
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    ASSERT_EQ(sched_getaffinity(getpid(), sizeof(allowed), &allowed), 0);
    const int cpus = CPU_COUNT(&allowed);
    ThreadPool more(cpus + 1);
    EXPECT_FALSE(more.PinThreads());
    ThreadPool pool(cpus);
    ASSERT_TRUE(pool.PinThreads());
    cpu_set_t seen;
    CPU_ZERO(&seen);
    for (const cpu_set_t& set : AffinityOf(pool)) {
      EXPECT_EQ(CPU_COUNT(&set), 1);
      CPU_OR(&seen, &seen, &set);
    }
    EXPECT_TRUE(CPU_EQUAL(&seen, &allowed));
  })
      .join();
}

TEST(ThreadPoolDeathTest, RefusesAChangedMxcsr) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  ThreadPool pool(1);
  EXPECT_DEATH(pool.Run([](int) { _mm_setcsr(0x1f80); }), "kComputeMxcsr");
}

TEST(PartOf, CoversEverythingOnceInUnits) {
  for (int64_t n : {0, 1, 15, 16, 17, 100}) {
    for (int64_t unit : {1, 4, 16}) {
      for (int parts : {1, 2, 3, 7}) {
        int64_t next = 0;
        for (int i = 0; i < parts; ++i) {
          const WorkRange range = PartOf(n, unit, i, parts);
          EXPECT_EQ(range.begin, next);
          EXPECT_GE(range.end, range.begin);
          if (range.end != n) {
            EXPECT_EQ(range.end % unit, 0);
          }
          next = range.end;
        }
        EXPECT_EQ(next, n);
      }
    }
  }
}

TEST(UsableCpus, AtLeastOneAndNoMoreThanTheMachine) {
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_LE(UsableCpus(),
            static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace sluice::kernels
