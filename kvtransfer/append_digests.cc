#include "kvtransfer/append_digests.h"

#include <algorithm>

#include "base/check.h"
#include "kvtransfer/run_copier.h"

namespace sluice::kvtransfer {

AppendDigests::AppendDigests(const LayoutManifest& manifest, uint32_t replica)
    : block_tokens_(manifest.block_tokens) {
  for (const RankManifest& rank : manifest.replicas[replica].ranks) {
    Rank table;
    table.rank = rank.rank;
    for (const GroupManifest& manifest_group : rank.groups) {
      Group group;
      group.manifest = manifest_group;
      group.layout = LayoutOf(manifest_group, rank, manifest.block_tokens);
      group.first_layer = rank.first_layer;
      const size_t rows = manifest_group.num_blocks * rank.num_layers;
      group.tokens = std::vector<std::atomic<uint16_t>>(rows);
      group.sums =
          std::vector<std::atomic<uint64_t>>(rows * manifest_group.num_heads);
      table.groups.push_back(std::move(group));
    }
    ranks_.push_back(std::move(table));
  }
}

int64_t AppendDigests::BytesOfBlock(const GroupLayout& layout) {
  return layout.layers *
         static_cast<int64_t>(sizeof(std::atomic<uint16_t>) +
                              layout.heads * sizeof(std::atomic<uint64_t>));
}

const AppendDigests::Group* AppendDigests::Find(uint32_t rank,
                                                uint32_t group_id) const {
  for (const Rank& table : ranks_) {
    if (table.rank != rank) continue;
    for (const Group& group : table.groups) {
      if (group.manifest.id == group_id) return &group;
    }
  }
  return nullptr;
}

uint64_t AppendDigests::DigestHead(const Group& group, const Tokens& tokens,
                                   uint32_t head,
                                   const std::byte* region) const {
  const GroupLayout& layout = group.layout;
  const int in_block = static_cast<int>(tokens.first_token % block_tokens_);
  uint64_t sum = 0;
  for (int comp = 0; comp < layout.comps; ++comp) {
    const RunShape run{
        .group_id = group.manifest.id,
        .index = {.layer = tokens.layer,
                  .comps = static_cast<uint32_t>(layout.comps),
                  .comp = static_cast<uint32_t>(comp),
                  .heads_total = group.manifest.heads_total,
                  .head = group.manifest.first_head + head,
                  .token = tokens.first_token,
                  .words =
                      static_cast<uint32_t>((layout.token_bytes() + 7) / 8)},
        .head_dim = static_cast<uint32_t>(layout.head_dim),
        .element_bytes = static_cast<uint32_t>(layout.element_bytes()),
        .tokens = tokens.num_tokens};
    const std::byte* head_block =
        region + group.manifest.base_address +
        tokens.block * group.manifest.block_stride_bytes +
        layout.HeadBlockOffsetInBlock(
            static_cast<int>(tokens.layer - group.first_layer), comp,
            static_cast<int>(head));
    sum += DigestAppended(run, layout.inner_order,
                          static_cast<uint32_t>(in_block), head_block);
  }
  return sum;
}

void AppendDigests::Append(const Tokens& tokens, const std::byte* region) {
  const auto rank =
      std::find_if(ranks_.begin(), ranks_.end(),
                   [&](const Rank& r) { return r.rank == tokens.rank; });
  SLUICE_CHECK(rank != ranks_.end() &&
               tokens.group_index < rank->groups.size());
  Group& group = rank->groups[tokens.group_index];
  const uint32_t in_block = tokens.first_token % block_tokens_;
  SLUICE_CHECK(tokens.block < group.manifest.num_blocks &&
               in_block + tokens.num_tokens <= block_tokens_);
  const size_t row = group.Row(tokens.block, tokens.layer);
  std::atomic<uint16_t>& known = group.tokens[row];
  std::atomic<uint64_t>* sums = &group.sums[row * group.manifest.num_heads];
  const bool anew = in_block == 0;
  const bool follows =
      anew || known.load(std::memory_order_relaxed) == in_block;
  known.store(kUnknown, std::memory_order_relaxed);
  if (!follows) return;
  for (uint32_t head = 0; head < group.manifest.num_heads; ++head) {
    const uint64_t before =
        anew ? 0 : sums[head].load(std::memory_order_relaxed);
    sums[head].store(before + DigestHead(group, tokens, head, region),
                     std::memory_order_release);
  }
  known.store(static_cast<uint16_t>(in_block + tokens.num_tokens),
              std::memory_order_release);
}

void AppendDigests::Forget(uint32_t block) {
  for (Rank& rank : ranks_) {
    for (Group& group : rank.groups) {
      const size_t layers = static_cast<size_t>(group.layout.layers);
      for (size_t layer = 0; layer < layers; ++layer) {
        group.tokens[block * layers + layer].store(kUnknown,
                                                   std::memory_order_relaxed);
      }
    }
  }
}

bool AppendDigests::Add(const Query& query, uint64_t& sum) const {
  const Group* group = Find(query.rank, query.group->id);
  if (group == nullptr) return false;
  uint64_t total = 0;
  for (uint32_t layer = query.l0; layer < query.l1; ++layer) {
    const size_t row = group->Row(query.block, layer);
    const std::atomic<uint16_t>& known = group->tokens[row];
    if (known.load(std::memory_order_acquire) != query.num_tokens) return false;
    const std::atomic<uint64_t>* sums =
        &group->sums[row * group->manifest.num_heads];
    for (const uint32_t head : query.group->heads) {
      total += sums[head - group->manifest.first_head].load(
          std::memory_order_acquire);
    }
    if (known.load(std::memory_order_relaxed) != query.num_tokens) return false;
  }
  sum += total;
  return true;
}

}  // namespace sluice::kvtransfer
