#ifndef KVTRANSFER_SHM_POOL_MEMORY_H_
#define KVTRANSFER_SHM_POOL_MEMORY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvtransfer/region_table.h"

namespace sluice::kvtransfer {

// Memory of a KV pool that other processes may map read-only: a memfd whose
// only writable mapping is ours. Zero-filled, fully allocated at creation,
// of huge pages as far as the kernel has them, sealed against resizing and
// against any further writable mapping. The mapping and the descriptor live
// as long as the object; any thread may use the bytes.
class PoolMemory {
 public:
  // `size_bytes` > 0 of usable memory, page-aligned base. kResourceExhausted
  // when it cannot be allocated, kUnavailable when the kernel lacks a seal.
  static absl::StatusOr<std::unique_ptr<PoolMemory>> Create(
      uint64_t size_bytes);
  ~PoolMemory();
  PoolMemory(const PoolMemory&) = delete;
  PoolMemory& operator=(const PoolMemory&) = delete;

  std::byte* base() const { return base_; }
  uint64_t size_bytes() const { return size_bytes_; }
  // Of the pool, from its start: made of huge pages.
  uint64_t huge_bytes() const { return std::min(huge_bytes_, size_bytes_); }

  // For TransferEngine; borrows the memory and the descriptor.
  Region region() const;

 private:
  PoolMemory() = default;

  std::byte* base_ = nullptr;
  uint64_t size_bytes_ = 0;
  uint64_t file_bytes_ = 0;  // with the probe page behind the pool
  uint64_t huge_bytes_ = 0;
  int fd_ = -1;
  std::string key_;
  uint64_t probe_value_ = 0;
};

// Hides this process's memory from others of the same user (ptrace,
// /proc/pid/mem): PR_SET_DUMPABLE 0. Call at start unless --kv.debuggable.
absl::Status ForbidDumping();

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_SHM_POOL_MEMORY_H_
