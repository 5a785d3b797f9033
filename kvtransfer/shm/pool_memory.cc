#include "kvtransfer/shm/pool_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/aligned_mapping.h"
#include "base/random.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint64_t kPageBytes = 4096;

// Not in every libc's headers.
constexpr int kMadvCollapse = 25;

// A huge page of small ones takes about 1 ms to make.
constexpr std::chrono::microseconds kTimePerPage(1000);
constexpr std::chrono::milliseconds kTimeAtLeast(50);

// Makes the pages of an aligned mapping, from its start, while they are not
// there yet, as huge ones (MADV_COLLAPSE, Linux 6.1: it needs no leave of the
// administrator, unlike MADV_HUGEPAGE for shared memory). Gives up when the
// kernel cannot, or when it takes longer than small pages would, because memory
// is in pieces. Returns how many bytes it made; the rest is as it was.
uint64_t MakeHugePages(int fd, std::byte* base, uint64_t bytes) {
  const auto begin = std::chrono::steady_clock::now();
  uint64_t done = 0;
  while (done + kHugePageBytes <= bytes) {
    const auto time = std::chrono::steady_clock::now() - begin;
    if (time > kTimeAtLeast + kTimePerPage * (done / kHugePageBytes)) break;
    // One small page there is what the kernel asks for.
    if (fallocate(fd, 0, static_cast<off_t>(done), kPageBytes) != 0 ||
        madvise(base + done, kHugePageBytes, kMadvCollapse) != 0) {
      break;
    }
    done += kHugePageBytes;
  }
  return done;
}

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
