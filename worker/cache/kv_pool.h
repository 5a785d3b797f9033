#ifndef WORKER_CACHE_KV_POOL_H_
#define WORKER_CACHE_KV_POOL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kv_view.h"
#include "kvtransfer/kv_layout.h"
#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/shm/pool_memory.h"

namespace sluice::worker {

// The shape of a rank's K and V.
struct KvPoolOptions {
  uint32_t num_blocks = 0;  // with the null block, >= 2
  uint32_t block_tokens = 64;
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  kernels::KvDtype dtype = kernels::KvDtype::kBF16;
};

// The byte order of such a pool: cpu_tiles for 16-bit values of blocks of at
// least 16 tokens, else canonical. kInvalidArgument for sizes that cannot be.
absl::StatusOr<kvtransfer::GroupLayout> KvLayoutFor(
    const KvPoolOptions& options);

// Owns the KV memory of one rank: one group, blocks of all layers, zeroed,
// readable by other processes through its region. Who may write which block is
// the block allocator's business. Immutable itself; the bytes are written by
// the rank thread and by transfers into reserved blocks.
class KvPool {
 public:
  // kInvalidArgument for the options, kResourceExhausted for the memory.
  static absl::StatusOr<std::unique_ptr<KvPool>> Create(
      const KvPoolOptions& options);

  uint32_t num_blocks() const { return options_.num_blocks; }
  uint32_t block_tokens() const { return options_.block_tokens; }
  const kvtransfer::GroupLayout& layout() const { return layout_; }
  uint8_t* base() const { return reinterpret_cast<uint8_t*>(memory_->base()); }
  uint64_t size_bytes() const { return memory_->size_bytes(); }

  // K and V of each layer; valid as long as the pool.
  absl::Span<const kernels::KvView> layers() const { return views_; }

  const kvtransfer::PoolMemory& memory() const { return *memory_; }
  // This pool as group 0 of a manifest, its region key filled in.
  kvtransfer::GroupManifest manifest_group() const;

 private:
  KvPool() = default;

  KvPoolOptions options_;
  kvtransfer::GroupLayout layout_;
  std::unique_ptr<kvtransfer::PoolMemory> memory_;
  std::vector<kernels::KvView> views_;
};

}  // namespace sluice::worker

#endif  // WORKER_CACHE_KV_POOL_H_
