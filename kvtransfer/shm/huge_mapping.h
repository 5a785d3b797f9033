#ifndef KVTRANSFER_SHM_HUGE_MAPPING_H_
#define KVTRANSFER_SHM_HUGE_MAPPING_H_

#include <cstddef>
#include <cstdint>

namespace sluice::kvtransfer {

inline constexpr uint64_t kHugePageBytes = 2 << 20;

// Maps all `file_bytes` of a memfd, shared, where its huge pages can be mapped
// as such: at a multiple of kHugePageBytes. MAP_FAILED and errno on failure;
// munmap() with the same size ends it.
void* MapAligned(int fd, uint64_t file_bytes, int protection);

// Makes the pages of a mapping of MapAligned(), from its start, while they are
// not there yet, as huge ones (MADV_COLLAPSE, Linux 6.1: it needs no leave of
// the administrator, unlike MADV_HUGEPAGE for shared memory). Gives up when the
// kernel cannot, or when it takes longer than small pages would, because memory
// is in pieces. Returns how many bytes it made; the rest is as it was.
uint64_t MakeHugePages(int fd, std::byte* base, uint64_t bytes);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_SHM_HUGE_MAPPING_H_
