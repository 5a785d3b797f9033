#include "worker/exec/step_profiler.h"

#include <chrono>
#include <cstring>

#include "kernels/cpu/thread_pool.h"

namespace sluice::worker {
namespace {

// Sum of the 8-byte words of a part, so that every line is read.
uint64_t SumWords(absl::Span<const uint8_t> bytes) {
  uint64_t sums[8] = {};
  size_t i = 0;
  for (; i + 64 <= bytes.size(); i += 64) {
    for (int j = 0; j < 8; ++j) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + i + 8 * j, sizeof(word));
      sums[j] += word;
    }
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

double ReadRate(const kernels::OpContext& context,
                absl::Span<const uint8_t> bytes) {
  const int threads = context.pool->num_threads();
  std::atomic<uint64_t> sink{0};
  const auto begin = std::chrono::steady_clock::now();
  context.pool->Run([&](int thread) {
    const kernels::WorkRange mine = kernels::PartOf(
        static_cast<int64_t>(bytes.size()), 64, thread, threads);
    sink.fetch_add(SumWords(bytes.subspan(mine.begin, mine.end - mine.begin)),
                   std::memory_order_relaxed);
  });
  const std::chrono::duration<double> spent =
      std::chrono::steady_clock::now() - begin;
  return spent.count() > 0 ? static_cast<double>(bytes.size()) / spent.count()
                           : 0;
}

}  // namespace

double ReadShare(const OpProfile::Entry& entry, double read_bytes_per_second) {
  if (entry.nanos == 0 || read_bytes_per_second == 0) return 0;
  return static_cast<double>(entry.bytes) / read_bytes_per_second /
         (static_cast<double>(entry.nanos) * 1e-9);
}

bool StepProfiler::Request(int64_t steps) {
  int64_t idle = 0;
  return left_.compare_exchange_strong(idle, steps, std::memory_order_acq_rel);
}

OpProfile* StepProfiler::Begin() {
  return left_.load(std::memory_order_acquire) > 0 ? &profile_.ops : nullptr;
}

void StepProfiler::End(const kernels::OpContext& context, int64_t step_nanos) {
  ++profile_.steps;
  profile_.step_nanos += step_nanos;
  if (left_.load(std::memory_order_relaxed) == 1) {
    profile_.read_bytes_per_second = ReadRate(context, weights_);
    done_(profile_);
    profile_ = StepProfile();
  }
  left_.fetch_sub(1, std::memory_order_acq_rel);
}

}  // namespace sluice::worker
