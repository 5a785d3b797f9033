#include "worker/cache/kv_pool.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::worker {

absl::StatusOr<kvtransfer::GroupLayout> KvLayoutFor(
    const KvPoolOptions& options) {
  const bool tiles = options.dtype == kernels::KvDtype::kBF16 &&
                     options.block_tokens >= 16 && options.head_dim % 2 == 0;
  kvtransfer::GroupLayout layout = {
      .kind = kvtransfer::GroupKind::kKeyValue,
      .comps = 2,
      .heads = options.kv_heads,
      .head_dim = options.head_dim,
      .dtype = options.dtype == kernels::KvDtype::kBF16
                   ? kvtransfer::KvDtype::kBf16
                   : kvtransfer::KvDtype::kF32,
      .inner_order = tiles ? kvtransfer::InnerOrder::kCpuTiles
                           : kvtransfer::InnerOrder::kCanonical,
      .layers = options.layers,
      .block_tokens = static_cast<int>(options.block_tokens)};
  RETURN_IF_ERROR(layout.Validate());
  return layout;
}

absl::StatusOr<std::unique_ptr<KvPool>> KvPool::Create(
    const KvPoolOptions& options) {
  if (options.num_blocks < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV pool needs at least 2 blocks, got ", options.num_blocks));
  }
  std::unique_ptr<KvPool> pool(new KvPool);
  pool->options_ = options;
  ASSIGN_OR_RETURN(pool->layout_, KvLayoutFor(options));
  const kvtransfer::GroupLayout& layout = pool->layout_;
  ASSIGN_OR_RETURN(pool->memory_,
                   kvtransfer::PoolMemory::Create(
                       static_cast<uint64_t>(options.num_blocks) *
                       static_cast<uint64_t>(layout.block_stride_bytes())));
  for (int layer = 0; layer < layout.layers; ++layer) {
    pool->views_.push_back(
        {.base = pool->base() + layout.HeadBlockOffset(0, layer, 0, 0),
         .num_blocks = options.num_blocks,
         .block_stride_bytes = layout.block_stride_bytes(),
         .comp_stride_bytes = layout.heads * layout.head_block_bytes(),
         .head_stride_bytes = layout.head_block_bytes(),
         .block_tokens = layout.block_tokens,
         .kv_heads = layout.heads,
         .head_dim = layout.head_dim,
         .dtype = options.dtype,
         .order = layout.inner_order == kvtransfer::InnerOrder::kCpuTiles
                      ? kernels::KvOrder::kCpuTiles
                      : kernels::KvOrder::kCanonical});
  }
  return pool;
}

kvtransfer::GroupManifest KvPool::manifest_group() const {
  kvtransfer::GroupManifest group =
      kvtransfer::ManifestOf(0, layout_, options_.num_blocks);
  group.region_key = memory_->region().key;
  return group;
}

}  // namespace sluice::worker
