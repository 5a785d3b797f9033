#ifndef KERNELS_CPU_WORK_SPLIT_H_
#define KERNELS_CPU_WORK_SPLIT_H_

#include <xmmintrin.h>

#include <atomic>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// The compute threads' float mode for work done on the caller's thread without
// the pool: flush to zero, denormals are zero, nearest.
class ComputeFloatMode {
 public:
  ComputeFloatMode() : caller_(_mm_getcsr()) { _mm_setcsr(0x9fc0); }
  ~ComputeFloatMode() { _mm_setcsr(caller_); }
  ComputeFloatMode(const ComputeFloatMode&) = delete;
  ComputeFloatMode& operator=(const ComputeFloatMode&) = delete;

 private:
  const uint32_t caller_;
};

// Below this many elements waking the pool costs more than it saves.
inline constexpr int64_t kElementsWorthSplitting = 16384;

// work(begin, end) over all of [0, rows), split over the pool unless rows *
// row_elements is small.
template <typename Work>
void SplitRows(const OpContext& context, int64_t rows, int64_t row_elements,
               const Work& work) {
  if (rows <= 0) return;
  const int threads = context.pool->num_threads();
  if (threads == 1 || rows == 1 ||
      rows * row_elements < kElementsWorthSplitting) {
    const ComputeFloatMode mode;
    work(int64_t{0}, rows);
    return;
  }
  context.pool->Run([&](int thread) {
    const WorkRange part = PartOf(rows, 1, thread, threads);
    if (part.begin < part.end) work(part.begin, part.end);
  });
}

// work(thread, item) for every item of [0, items), each taken by the next free
// thread, in ascending order of items.
template <typename Work>
void ShareItems(const OpContext& context, int64_t items, const Work& work) {
  if (items <= 0) return;
  if (items == 1 || context.pool->num_threads() == 1) {
    const ComputeFloatMode mode;
    for (int64_t item = 0; item < items; ++item) work(0, item);
    return;
  }
  std::atomic<int64_t> next{0};
  context.pool->Run([&](int thread) {
    while (true) {
      const int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= items) return;
      work(thread, item);
    }
  });
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_WORK_SPLIT_H_
