#ifndef WORKER_MODEL_PAGE_MEMORY_H_
#define WORKER_MODEL_PAGE_MEMORY_H_

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::worker {

// Memory of whole pages: zeroed and this process's own, or a file's, shared
// and read-only. Huge pages are advised before the first touch; pages count
// once they are touched. Move-only.
class PageMemory {
 public:
  PageMemory() = default;
  // kResourceExhausted naming `purpose` and the size.
  static absl::StatusOr<PageMemory> Allocate(int64_t size_bytes,
                                             absl::string_view purpose);
  // The first `size_bytes` > 0 of the open file `fd`, which must have them;
  // data() may only be read. Aligned so that a large folio of the page cache
  // is mapped as one. The descriptor may be closed. kResourceExhausted.
  static absl::StatusOr<PageMemory> MapFile(int fd, int64_t size_bytes,
                                            absl::string_view purpose);
  ~PageMemory();
  PageMemory(PageMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  PageMemory& operator=(PageMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }

  uint8_t* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// Hands out 64-byte aligned pieces of one PageMemory, in order.
class PieceCutter {
 public:
  explicit PieceCutter(const PageMemory& memory) : memory_(&memory) {}

  static int64_t PieceBytes(int64_t size_bytes) {
    return (size_bytes + 63) / 64 * 64;
  }
  uint8_t* Take(int64_t size_bytes);

  float* TakeFloats(int64_t count) {
    return reinterpret_cast<float*>(Take(count * 4));
  }

 private:
  const PageMemory* memory_;
  int64_t used_ = 0;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_PAGE_MEMORY_H_
