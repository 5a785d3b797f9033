#ifndef BASE_ALIGNED_MAPPING_H_
#define BASE_ALIGNED_MAPPING_H_

#include <cstdint>

namespace sluice {

inline constexpr uint64_t kHugePageBytes = 2 << 20;

// Maps the first `file_bytes` of a file, shared, where its huge pages can be
// mapped as such: at a multiple of kHugePageBytes. MAP_FAILED and errno on
// failure; munmap() with the same size ends it.
void* MapAligned(int fd, uint64_t file_bytes, int protection);

}  // namespace sluice

#endif  // BASE_ALIGNED_MAPPING_H_
