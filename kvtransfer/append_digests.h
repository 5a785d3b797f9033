#ifndef KVTRANSFER_APPEND_DIGESTS_H_
#define KVTRANSFER_APPEND_DIGESTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {

// Digests of a source's own KV, kept from the moment it is written: a transfer
// then sends sums of them and need not read the memory again, and a bit that
// flips at rest is found by the destination. One word per (block, group,
// layer, head), both components together.
//
// Append() runs on the thread that wrote the KV; threads may share the table as
// long as no two write the same (rank, group, block, layer) at once. Add() may
// run beside them: it answers with the sum of exactly the tokens asked for or
// not at all. What a transfer reads must have been appended before its
// rectangle was offered.
class AppendDigests {
 public:
  // Memory for replica `replica` of `manifest`, which is valid.
  AppendDigests(const LayoutManifest& manifest, uint32_t replica);
  // Of that, for one block of one group.
  static int64_t BytesOfBlock(const GroupLayout& layout);

  // Tokens [first_token, first_token + num_tokens), absolute positions, of one
  // block and layer (global); `group_index` counts in the rank's manifest.
  struct Tokens {
    uint32_t rank = 0;
    uint32_t group_index = 0;
    uint32_t layer = 0;
    uint32_t block = 0;
    uint32_t first_token = 0;
    uint32_t num_tokens = 0;
  };
  // Adds tokens just written at `region`, the base of our KV memory. The first
  // token of a block starts it anew; one that does not follow the last leaves
  // the block unknown until it starts anew.
  void Append(const Tokens& tokens, const std::byte* region);
  // The block's contents change otherwise: unknown until it starts anew.
  void Forget(uint32_t block);

  // Sum over a group of a stream whose source we are, for the first
  // `num_tokens` tokens of `block` in layers [l0, l1); false unless exactly
  // those were appended.
  struct Query {
    uint32_t rank = 0;
    const StreamGroup* group = nullptr;
    uint32_t block = 0;
    uint32_t num_tokens = 0;
    uint32_t l0 = 0;
    uint32_t l1 = 0;
  };
  bool Add(const Query& query, uint64_t& sum) const;

 private:
  struct Group {
    GroupManifest manifest;
    GroupLayout layout;
    uint32_t first_layer = 0;
    // Sums change only while their row's tokens are kUnknown; both are read
    // and written in order, so that a reader who sees the same number before
    // and after has the sums that belong to it.
    std::vector<std::atomic<uint64_t>> sums;    // [block][layer][head]
    std::vector<std::atomic<uint16_t>> tokens;  // [block][layer]

    size_t Row(uint32_t block, uint32_t layer) const {
      return size_t{block} * static_cast<size_t>(layout.layers) + layer -
             first_layer;
    }
  };
  struct Rank {
    uint32_t rank = 0;
    std::vector<Group> groups;
  };
  static constexpr uint16_t kUnknown = 0xFFFF;

  const Group* Find(uint32_t rank, uint32_t group_id) const;
  uint64_t DigestHead(const Group& group, const Tokens& tokens, uint32_t head,
                      const std::byte* region) const;

  uint32_t block_tokens_;
  std::vector<Rank> ranks_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_APPEND_DIGESTS_H_
