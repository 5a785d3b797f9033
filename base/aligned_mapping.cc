#include "base/aligned_mapping.h"

#include <sys/mman.h>

namespace sluice {

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

}  // namespace sluice
