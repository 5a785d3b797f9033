#include "kvtransfer/shm/huge_mapping.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <chrono>

namespace sluice::kvtransfer {
namespace {

// Not in every libc's headers.
constexpr int kMadvCollapse = 25;

// A huge page of small ones takes about 1 ms to make.
constexpr std::chrono::microseconds kTimePerPage(1000);
constexpr std::chrono::milliseconds kTimeAtLeast(50);

}  // namespace

void* MapAligned(int fd, uint64_t file_bytes, int protection) {
  // More than is needed, at any address, then the file over a part of it.
  const uint64_t reserved = file_bytes + kHugePageBytes;
  void* const space = mmap(nullptr, reserved, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return MAP_FAILED;
  const uint64_t begin = reinterpret_cast<uint64_t>(space);
  const uint64_t aligned =
      (begin + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* const base = mmap(reinterpret_cast<void*>(aligned), file_bytes,
                          protection, MAP_SHARED | MAP_FIXED, fd, 0);
  if (base == MAP_FAILED) {
    munmap(space, reserved);
    return MAP_FAILED;
  }
  constexpr uint64_t kPageBytes = 4096;
  const uint64_t end =
      (aligned + file_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (aligned > begin) munmap(space, aligned - begin);
  if (begin + reserved > end) {
    munmap(reinterpret_cast<void*>(end), begin + reserved - end);
  }
  return base;
}

uint64_t MakeHugePages(int fd, std::byte* base, uint64_t bytes) {
  const auto begin = std::chrono::steady_clock::now();
  uint64_t done = 0;
  while (done + kHugePageBytes <= bytes) {
    const auto time = std::chrono::steady_clock::now() - begin;
    if (time > kTimeAtLeast + kTimePerPage * (done / kHugePageBytes)) break;
    // One small page there is what the kernel asks for.
    if (fallocate(fd, 0, static_cast<off_t>(done), 4096) != 0 ||
        madvise(base + done, kHugePageBytes, kMadvCollapse) != 0) {
      break;
    }
    done += kHugePageBytes;
  }
  return done;
}

}  // namespace sluice::kvtransfer
