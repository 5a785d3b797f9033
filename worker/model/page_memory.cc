#include "worker/model/page_memory.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"
#include "base/aligned_mapping.h"
#include "base/check.h"

namespace sluice::worker {

absl::StatusOr<PageMemory> PageMemory::Allocate(int64_t size_bytes,
                                                absl::string_view purpose) {
  SLUICE_CHECK(size_bytes >= 0);
  PageMemory memory;
  if (size_bytes == 0) return memory;
  void* data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", purpose, ": ", size_bytes, " bytes"));
  }
  madvise(data, size_bytes, MADV_HUGEPAGE);
  memory.data_ = static_cast<uint8_t*>(data);
  memory.size_bytes_ = size_bytes;
  return memory;
}

absl::StatusOr<PageMemory> PageMemory::MapFile(int fd, int64_t size_bytes,
                                               absl::string_view purpose) {
  SLUICE_CHECK(size_bytes > 0);
  const size_t size = static_cast<size_t>(size_bytes);
  void* const data = MapAligned(fd, size, PROT_READ);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", size_bytes, " bytes of ", purpose));
  }
  madvise(data, size, MADV_HUGEPAGE);
  PageMemory memory;
  memory.data_ = static_cast<uint8_t*>(data);
  memory.size_bytes_ = size_bytes;
  return memory;
}

PageMemory::~PageMemory() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

uint8_t* PieceCutter::Take(int64_t size_bytes) {
  uint8_t* piece = memory_->data() + used_;
  used_ += PieceBytes(size_bytes);
  SLUICE_CHECK(used_ <= memory_->size_bytes());
  return piece;
}

}  // namespace sluice::worker
