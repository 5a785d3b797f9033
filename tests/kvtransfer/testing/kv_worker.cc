#include "tests/kvtransfer/testing/kv_worker.h"

#include <cstring>

#include "base/check.h"
#include "kvtransfer/block_digest.h"

namespace sluice::kvtransfer {
namespace {

constexpr int kUntouched = 0xEE;

uint32_t ValueAt(uint64_t seed, int layer, int comp, int head, uint32_t token,
                 int d) {
  const uint64_t at =
      ((((static_cast<uint64_t>(layer) * 2 + comp) * 64 + head) << 24) +
       token) *
          4096 +
      d;
  return static_cast<uint32_t>(MixWord(at + seed * 0x12345678901));
}

}  // namespace

LayoutManifest MakeManifest(const KvWorkerSpec& spec) {
  const GroupLayout layout{.comps = 2,
                           .heads = spec.heads,
                           .head_dim = spec.head_dim,
                           .dtype = spec.dtype,
                           .inner_order = spec.inner_order,
                           .layers = spec.layers,
                           .block_tokens = spec.block_tokens};
  LayoutManifest manifest;
  manifest.worker = spec.name;
  manifest.generation = spec.generation;
  manifest.kv_fingerprint = std::string(32, 'f');
  manifest.numerics_id = "x86.1/0";
  manifest.block_tokens = static_cast<uint32_t>(spec.block_tokens);
  RankManifest rank;
  rank.num_layers = static_cast<uint32_t>(spec.layers);
  rank.groups.push_back(ManifestOf(0, layout, spec.num_blocks));
  ReplicaManifest replica;
  replica.ranks.push_back(rank);
  manifest.replicas.push_back(replica);
  manifest.manifest_id = ComputeManifestId(manifest);
  return manifest;
}

KvWorker::KvWorker(const KvWorkerSpec& worker_spec, const Region& other)
    : spec(worker_spec), manifest(MakeManifest(worker_spec)), region(other) {
  const uint64_t bytes = blocks_bytes() + spec.staging_bytes;
  if (region.base == nullptr) {
    auto created = PoolMemory::Create(bytes);
    SLUICE_CHECK(created.ok());
    memory = *std::move(created);
    region = memory->region();
  }
  SLUICE_CHECK(region.size_bytes >= bytes);
  std::memset(region.base, kUntouched, bytes);
}

GroupLayout KvWorker::layout() const {
  const RankManifest& rank = manifest.replicas[0].ranks[0];
  return LayoutOf(rank.groups[0], rank, manifest.block_tokens);
}

uint64_t KvWorker::blocks_bytes() const {
  return spec.num_blocks * static_cast<uint64_t>(layout().block_stride_bytes());
}

std::byte* KvWorker::block(uint32_t id) const {
  return region.base + id * layout().block_stride_bytes();
}

void KvWorker::Fill(const std::vector<uint32_t>& blocks, uint32_t num_tokens,
                    uint64_t seed) const {
  const GroupLayout l = layout();
  for (int layer = 0; layer < l.layers; ++layer) {
    for (int comp = 0; comp < l.comps; ++comp) {
      for (int head = 0; head < l.heads; ++head) {
        for (uint32_t token = 0; token < num_tokens; ++token) {
          std::byte* at =
              region.base + l.HeadBlockOffset(blocks[token / l.block_tokens],
                                              layer, comp, head);
          for (int d = 0; d < l.head_dim; ++d) {
            const uint32_t v = ValueAt(seed, layer, comp, head, token, d);
            std::memcpy(
                at + l.ElementOffset(
                         comp, static_cast<int>(token % l.block_tokens), d),
                &v, l.element_bytes());
          }
        }
      }
    }
  }
}

bool KvWorker::Holds(const std::vector<uint32_t>& blocks, uint32_t skip,
                     uint32_t num_tokens, uint64_t seed) const {
  const GroupLayout l = layout();
  for (int layer = 0; layer < l.layers; ++layer) {
    for (int comp = 0; comp < l.comps; ++comp) {
      for (int head = 0; head < l.heads; ++head) {
        for (uint32_t token = skip; token < num_tokens; ++token) {
          const std::byte* at =
              region.base + l.HeadBlockOffset(blocks[token / l.block_tokens],
                                              layer, comp, head);
          for (int d = 0; d < l.head_dim; ++d) {
            const uint32_t v = ValueAt(seed, layer, comp, head, token, d);
            if (std::memcmp(
                    at + l.ElementOffset(
                             comp, static_cast<int>(token % l.block_tokens), d),
                    &v, l.element_bytes()) != 0) {
              return false;
            }
          }
        }
      }
    }
  }
  return true;
}

bool KvWorker::Untouched(uint32_t id) const {
  const std::byte* at = block(id);
  for (int64_t i = 0; i < layout().block_stride_bytes(); ++i) {
    if (at[i] != std::byte{kUntouched}) return false;
  }
  return true;
}

std::vector<uint32_t> Blocks(uint32_t num_tokens, int block_tokens,
                             uint32_t first, uint32_t step) {
  std::vector<uint32_t> blocks;
  for (uint32_t t = 0; t < num_tokens; t += block_tokens) {
    blocks.push_back(first + step * static_cast<uint32_t>(blocks.size()));
  }
  return blocks;
}

}  // namespace sluice::kvtransfer
