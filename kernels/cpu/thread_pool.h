#ifndef KERNELS_CPU_THREAD_POOL_H_
#define KERNELS_CPU_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/functional/function_ref.h"

namespace sluice::kernels {

// The compute threads of one rank. Run() is called by one thread (the rank
// thread, which works as thread 0) and returns when every thread is done. Every
// thread has MXCSR 0x9FC0 (flush to zero, denormals are zero, nearest).
// Between calls the threads spin briefly, without a system call until other
// processes are seen to want the cores and giving way to them then, and sleep
// on a futex after 50 us; an idle pool costs nothing.
class ThreadPool {
 public:
  // threads >= 1, counting the caller's.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // work(thread) once for each thread in [0, num_threads()), in parallel. Must
  // not be called from inside `work`. `thread` is an index, not a thread of the
  // system: one that runs may take over what another has not begun.
  void Run(absl::FunctionRef<void(int thread)> work);

  // Gives each thread a CPU of its own, the calling one (which is to call
  // Run()) as thread 0, where the process may use just as many CPUs as there
  // are threads; else, or when the system refuses, does nothing and is false.
  bool PinThreads();

  // How often Run() was called: how often the threads met. For its caller.
  int64_t num_runs() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// [begin, end) of part `index` of `parts` equal parts of n, in units of `unit`.
struct WorkRange {
  int64_t begin = 0;
  int64_t end = 0;
};
WorkRange PartOf(int64_t n, int64_t unit, int index, int parts);

// Threads worth starting: CPUs of the affinity mask, at most the cgroup's
// cpu.max quota rounded down, at least 1.
int UsableCpus();

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_THREAD_POOL_H_
