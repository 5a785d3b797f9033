#include "kernels/cpu/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "kernels/cpu/wait_word.h"

namespace sluice::kernels {
namespace {

// Flush to zero, denormals are zero, nearest, every exception masked.
constexpr uint32_t kComputeMxcsr = 0x9fc0;
constexpr uint32_t kMxcsrStickyFlags = 0x3f;

void CheckMxcsr() {
  SLUICE_CHECK((_mm_getcsr() & ~kMxcsrStickyFlags) == kComputeMxcsr);
}

std::string FirstLine(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// CPUs a cgroup v2 directory grants by "<quota|max> <period>", or `none`.
double QuotaV2(const std::string& directory, double none) {
  const std::vector<std::string> parts =
      absl::StrSplit(FirstLine(directory + "/cpu.max"), ' ');
  double quota = 0;
  double period = 0;
  if (parts.size() != 2 || !absl::SimpleAtod(parts[0], &quota) ||
      !absl::SimpleAtod(parts[1], &period) || quota <= 0 || period <= 0) {
    return none;
  }
  return quota / period;
}

double QuotaV1(const std::string& directory, double none) {
  double quota = 0;
  double period = 0;
  if (!absl::SimpleAtod(FirstLine(directory + "/cpu.cfs_quota_us"), &quota) ||
      !absl::SimpleAtod(FirstLine(directory + "/cpu.cfs_period_us"), &period) ||
      quota <= 0 || period <= 0) {
    return none;
  }
  return quota / period;
}

// The smallest quota of `path` and its ancestors under `root`.
double SmallestQuota(const std::string& root, std::string path, double none,
                     double (*quota)(const std::string&, double)) {
  double smallest = none;
  while (true) {
    if (path == "/") path.clear();
    smallest = std::min(smallest, quota(root + path, none));
    if (path.empty()) return smallest;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

// CPUs granted by this process's cgroups, or `none` without a limit.
double CgroupCpus(double none) {
  double smallest = none;
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      smallest = std::min(
          smallest, SmallestQuota("/sys/fs/cgroup", parts[2], none, QuotaV2));
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), "cpu") ==
        controllers.end()) {
      continue;
    }
    smallest = std::min(
        smallest, SmallestQuota("/sys/fs/cgroup/cpu", parts[2], none, QuotaV1));
  }
  return smallest;
}

}  // namespace

struct ThreadPool::State {
  // Low half: the next thread index to hand out. High half: the generation it
  // belongs to, so that a worker that wakes late finds nothing to take.
  alignas(64) std::atomic<uint64_t> ticket{0};
  // A change starts the work, or ends the workers when `stop`.
  alignas(64) WaitWord generation;
  // Indices 1 .. not yet done in the current generation.
  alignas(64) WaitWord pending;
  // Written before `ticket` changes, read by who took an index of it.
  const absl::FunctionRef<void(int)>* work = nullptr;
  // Atomic: a worker late for an old generation may look any time.
  std::atomic<bool> stop{false};
  uint32_t num_indices = 1;  // fixed before the first worker starts
  std::vector<std::thread> workers;
  int64_t num_runs = 0;  // the caller's

  // Runs indices of generation `wanted` until none is left to take. An index
  // is not bound to a thread: while another process holds a worker's core, the
  // threads that do run take over what it has not begun.
  void TakeIndices(uint32_t wanted) {
    uint64_t now = ticket.load(std::memory_order_acquire);
    while (now >> 32 == wanted) {
      const uint32_t index = static_cast<uint32_t>(now);
      if (index >= num_indices) return;
      if (!ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        continue;
      }
      (*work)(static_cast<int>(index));
      CheckMxcsr();
      pending.CountDown();
      now = ticket.load(std::memory_order_acquire);
    }
  }

  void Work() {
    _mm_setcsr(kComputeMxcsr);
    uint32_t seen = 0;
    while (true) {
      seen = generation.WaitForChange(seen);
      if (stop.load(std::memory_order_relaxed)) return;
      TakeIndices(seen);
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  SLUICE_CHECK(threads >= 1);
  State* state = state_.get();
  state->num_indices = static_cast<uint32_t>(threads);
  for (int i = 1; i < threads; ++i) {
    state->workers.emplace_back([state] { state->Work(); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->generation.Set(state_->generation.value() + 1);
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const {
  return static_cast<int>(state_->num_indices);
}

bool ThreadPool::PinThreads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(getpid(), sizeof(allowed), &allowed) != 0 ||
      CPU_COUNT(&allowed) != num_threads()) {
    return false;
  }
  int cpu = -1;
  for (int thread = 0; thread < num_threads(); ++thread) {
    do ++cpu;
    while (!CPU_ISSET(cpu, &allowed));
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(cpu, &own);
    const pthread_t handle = thread == 0
                                 ? pthread_self()
                                 : state_->workers[thread - 1].native_handle();
    if (pthread_setaffinity_np(handle, sizeof(own), &own) != 0) return false;
  }
  return true;
}

int64_t ThreadPool::num_runs() const { return state_->num_runs; }

void ThreadPool::Run(absl::FunctionRef<void(int thread)> work) {
  ++state_->num_runs;
  const uint32_t caller_mxcsr = _mm_getcsr();
  _mm_setcsr(kComputeMxcsr);
  const uint32_t others = state_->num_indices - 1;
  const uint32_t generation = state_->generation.value() + 1;
  if (others > 0) {
    state_->work = &work;
    state_->pending.Set(others);
    state_->ticket.store(static_cast<uint64_t>(generation) << 32 | 1,
                         std::memory_order_release);
    state_->generation.Set(generation);
  }
  work(0);
  CheckMxcsr();
  if (others > 0) {
    state_->TakeIndices(generation);
    state_->pending.WaitUntilZero();
  }
  _mm_setcsr(caller_mxcsr);
}

WorkRange PartOf(int64_t n, int64_t unit, int index, int parts) {
  const int64_t units = (n + unit - 1) / unit;
  return {.begin = std::min(n, units * index / parts * unit),
          .end = std::min(n, units * (index + 1) / parts * unit)};
}

int UsableCpus() {
  int cpus = 0;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
  // More than 1024 CPUs: the call fails, the library's count stands.
  if (cpus < 1) cpus = static_cast<int>(std::thread::hardware_concurrency());
  cpus = std::max(cpus, 1);
  const double granted = CgroupCpus(cpus);
  return std::max(1, static_cast<int>(std::min<double>(granted, cpus)));
}

}  // namespace sluice::kernels
