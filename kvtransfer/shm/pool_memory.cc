#include "kvtransfer/shm/pool_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "kvtransfer/shm/huge_mapping.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint64_t kPageBytes = 4096;

absl::Status Failed(absl::StatusCode code, const char* call, uint64_t bytes) {
  return absl::Status(code, absl::StrCat("kv pool of ", bytes, " bytes: ", call,
                                         ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PoolMemory>> PoolMemory::Create(
    uint64_t size_bytes) {
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max() / 2;
  if (size_bytes == 0 || size_bytes > kLimit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("kv pool of ", size_bytes, " bytes cannot be made"));
  }
  auto pool = std::unique_ptr<PoolMemory>(new PoolMemory);
  pool->size_bytes_ = size_bytes;
  pool->key_ = RandomBytes(16);
  // The probe lies on a page of its own behind the pool.
  const uint64_t used =
      (size_bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  pool->file_bytes_ = used + kPageBytes;
  pool->fd_ = memfd_create("sluice-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (pool->fd_ < 0) {
    return Failed(absl::StatusCode::kUnavailable, "memfd_create", size_bytes);
  }
  const off_t file_bytes = static_cast<off_t>(pool->file_bytes_);
  if (ftruncate(pool->fd_, file_bytes) != 0) {
    return Failed(absl::StatusCode::kResourceExhausted, "ftruncate",
                  size_bytes);
  }
  void* base = MapAligned(pool->fd_, pool->file_bytes_, PROT_READ | PROT_WRITE);
  if (base == MAP_FAILED) {
    return Failed(absl::StatusCode::kResourceExhausted, "mmap", size_bytes);
  }
  pool->base_ = static_cast<std::byte*>(base);
  // Advice only: without it the pool works, a little slower.
  (void)madvise(base, used, MADV_HUGEPAGE);
  pool->huge_bytes_ = MakeHugePages(pool->fd_, pool->base_, used);
  if (fallocate(pool->fd_, 0, 0, file_bytes) != 0) {
    return Failed(absl::StatusCode::kResourceExhausted, "fallocate",
                  size_bytes);
  }
  const std::string probe = RandomBytes(sizeof pool->probe_value_);
  std::memcpy(&pool->probe_value_, probe.data(), probe.size());
  std::memcpy(pool->base_ + used, probe.data(), probe.size());
  // After our own writable mapping: it stays the only one for ever.
  if (fcntl(pool->fd_, F_ADD_SEALS,
            F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return Failed(absl::StatusCode::kUnavailable, "F_ADD_SEALS", size_bytes);
  }
  return pool;
}

PoolMemory::~PoolMemory() {
  if (base_ != nullptr) munmap(base_, file_bytes_);
  if (fd_ >= 0) close(fd_);
}

Region PoolMemory::region() const {
  return Region{.key = key_,
                .base = base_,
                .size_bytes = size_bytes_,
                .fd = fd_,
                .probe_offset = file_bytes_ - kPageBytes,
                .probe_value = probe_value_};
}

absl::Status ForbidDumping() {
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("PR_SET_DUMPABLE: ", std::strerror(errno)));
}

}  // namespace sluice::kvtransfer
