#include "tests/kvtransfer/testing/sharded_cache.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kvtransfer/block_digest.h"

namespace sluice::kvtransfer {
namespace {

GroupManifest SplitGroup(const ModelGroup& model, const CacheSplit& split,
                         int rank, int layers) {
  const auto [first, end] = HeadInterval(static_cast<uint32_t>(rank),
                                         static_cast<uint32_t>(split.ranks),
                                         static_cast<uint32_t>(model.heads));
  const GroupLayout layout{
      .kind = model.kind,
      .comps = model.comps,
      .heads = static_cast<int>(end - first),
      .head_dim = model.head_dim,
      .dtype = model.dtype,
      .inner_order = model.may_tile ? split.order : InnerOrder::kCanonical,
      .layers = layers,
      .block_tokens = split.block_tokens};
  GroupManifest group = ManifestOf(model.id, layout, 1);
  group.heads_total = static_cast<uint32_t>(model.heads);
  group.first_head = first;
  return group;
}

}  // namespace

CacheModel KeyValueModel(int heads, int head_dim, int layers) {
  return {layers, {{.heads = heads, .head_dim = head_dim}}};
}

CacheModel AllGroupsModel(int heads, int head_dim, int layers) {
  CacheModel model = KeyValueModel(heads, head_dim, layers);
  model.groups.push_back({.id = 1,
                          .kind = GroupKind::kLatent,
                          .comps = 1,
                          .heads = 1,
                          .head_dim = 24,
                          .may_tile = false});
  // Six values of two bytes: not whole words.
  model.groups.push_back({.id = 2,
                          .kind = GroupKind::kRope,
                          .comps = 1,
                          .heads = 1,
                          .head_dim = 6,
                          .may_tile = false});
  model.groups.push_back({.id = 3,
                          .kind = GroupKind::kScale,
                          .comps = 2,
                          .heads = heads,
                          .head_dim = 1,
                          .dtype = KvDtype::kF32,
                          .may_tile = false});
  model.groups.push_back({.id = 4,
                          .kind = GroupKind::kIndex,
                          .comps = 1,
                          .heads = 1,
                          .head_dim = 8,
                          .may_tile = false});
  model.groups.push_back({.id = 5,
                          .kind = GroupKind::kDraftKeyValue,
                          .comps = 2,
                          .heads = 2,
                          .head_dim = 4});
  return model;
}

ShardedCache::ShardedCache(const CacheModel& model, const CacheSplit& split,
                           uint32_t num_tokens, uint32_t first) {
  manifest_.worker = std::string("w");
  manifest_.generation = 1;
  manifest_.kv_fingerprint = std::string(32, 'f');
  manifest_.draft_fingerprint = std::string(32, 'd');
  manifest_.block_tokens = static_cast<uint32_t>(split.block_tokens);
  for (uint32_t t = 0; t < num_tokens; t += manifest_.block_tokens) {
    blocks_.push_back(first + 2 * static_cast<uint32_t>(blocks_.size()));
  }
  std::reverse(blocks_.begin(), blocks_.end());
  ReplicaManifest replica;
  uint64_t end = 0;
  for (int stage = 0; stage < split.stages; ++stage) {
    for (int r = 0; r < split.ranks; ++r) {
      RankManifest rank;
      rank.rank = static_cast<uint32_t>(stage * split.ranks + r);
      const int from = model.layers * stage / split.stages;
      const int to = model.layers * (stage + 1) / split.stages;
      rank.first_layer = static_cast<uint32_t>(from);
      rank.num_layers = static_cast<uint32_t>(to - from);
      for (const ModelGroup& group : model.groups) {
        rank.groups.push_back(SplitGroup(group, split, r, to - from));
        rank.groups.back().num_blocks = first + 2 * blocks_.size() + 1;
        rank.groups.back().base_address = end;
        end += rank.groups.back().num_blocks *
               rank.groups.back().block_stride_bytes;
      }
      replica.ranks.push_back(rank);
    }
  }
  manifest_.replicas.push_back(replica);
  manifest_.manifest_id = ComputeManifestId(manifest_);
  SLUICE_CHECK(ValidateManifest(manifest_).ok());
  bytes_.assign(end, kUntouched);
  for (const RankManifest& rank : manifest_.replicas[0].ranks) {
    for (const GroupManifest& group : rank.groups) {
      for (uint32_t t = 0; t < num_tokens; ++t) Lay(rank, group, t);
    }
  }
}

void ShardedCache::Lay(const RankManifest& rank, const GroupManifest& group,
                       uint32_t token) {
  const GroupLayout l = LayoutOf(group, rank, manifest_.block_tokens);
  const uint32_t block = blocks_[token / manifest_.block_tokens];
  const int in_block = static_cast<int>(token % manifest_.block_tokens);
  for (int layer = 0; layer < l.layers; ++layer) {
    for (int comp = 0; comp < l.comps; ++comp) {
      for (int head = 0; head < l.heads; ++head) {
        const uint64_t at =
            group.base_address +
            static_cast<uint64_t>(l.HeadBlockOffset(block, layer, comp, head));
        const uint64_t place =
            (((uint64_t{group.id} * 64 + rank.first_layer + layer) * 2 + comp) *
                 64 +
             group.first_head + head)
            << 24;
        for (int d = 0; d < l.head_dim; ++d) {
          elements_.push_back(
              {.at = at +
                     static_cast<uint64_t>(l.ElementOffset(comp, in_block, d)),
               .value =
                   static_cast<uint32_t>(MixWord((place + token) * 4096 + d)),
               .bytes = static_cast<uint32_t>(l.element_bytes()),
               .token = token});
        }
      }
    }
  }
}

void ShardedCache::Reset() {
  std::fill(bytes_.begin(), bytes_.end(), kUntouched);
}

void ShardedCache::Fill() {
  for (const Element& e : elements_) {
    std::memcpy(&bytes_[e.at], &e.value, e.bytes);
  }
}

size_t ShardedCache::CountWrong(uint32_t skip,
                                const std::vector<uint8_t>& writes) const {
  size_t wrong = 0;
  for (const Element& e : elements_) {
    if (e.token < skip) continue;
    bool right = std::memcmp(&bytes_[e.at], &e.value, e.bytes) == 0;
    for (uint32_t i = 0; i < e.bytes; ++i) right &= writes[e.at + i] == 1;
    wrong += right ? 0 : 1;
  }
  return wrong;
}

size_t ShardedCache::CountStray(uint32_t skip) const {
  const auto first = blocks_.begin() + skip / manifest_.block_tokens;
  size_t stray = 0;
  for (const RankManifest& rank : manifest_.replicas[0].ranks) {
    for (const GroupManifest& g : rank.groups) {
      for (uint64_t block = 0; block < g.num_blocks; ++block) {
        if (std::find(first, blocks_.end(), block) != blocks_.end()) continue;
        const std::byte* at =
            &bytes_[g.base_address + block * g.block_stride_bytes];
        // Equal to itself moved by one, and its first byte untouched.
        if (at[0] != kUntouched ||
            std::memcmp(at, at + 1, g.block_stride_bytes - 1) != 0) {
          ++stray;
        }
      }
    }
  }
  return stray;
}

}  // namespace sluice::kvtransfer
