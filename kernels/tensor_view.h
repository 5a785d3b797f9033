#ifndef KERNELS_TENSOR_VIEW_H_
#define KERNELS_TENSOR_VIEW_H_

#include <cstdint>

namespace sluice::kernels {

// Non-owning rank-2 view, row-major. `stride` is in elements and at least
// `cols`. Zero rows are legal; `data` may then be null.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  T* Row(int64_t r) const { return data + r * stride; }
};

class ThreadPool;  // kernels/cpu/thread_pool.h

// What an op runs on. CPU ops split their own work over the pool and return
// when all of it is done. Never null on CPU.
struct OpContext {
  ThreadPool* pool = nullptr;
};

}  // namespace sluice::kernels

#endif  // KERNELS_TENSOR_VIEW_H_
