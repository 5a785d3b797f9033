#ifndef KVTRANSFER_KV_LAYOUT_H_
#define KVTRANSFER_KV_LAYOUT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::kvtransfer {

// What a group stores. Draft groups (of a speculative proposer) have their
// own kinds because they move only when both sides' drafts are equal.
enum class GroupKind {
  kKeyValue = 0,
  kLatent = 1,
  kRope = 2,
  kScale = 3,
  kIndex = 4,
  kDraftKeyValue = 5,
};

enum class KvDtype { kBf16 = 0, kF32 = 1 };

// Order of the values of one head block; see GroupLayout.
enum class InnerOrder { kCanonical = 1, kCpuTiles = 2 };

// Wire names: "key_value", "latent", ...; "bf16", "f32"; "canonical",
// "cpu_tiles". Parsers answer kInvalidArgument naming the value.
absl::string_view GroupKindName(GroupKind kind);
absl::string_view KvDtypeName(KvDtype dtype);
absl::string_view InnerOrderName(InnerOrder order);
absl::StatusOr<GroupKind> ParseGroupKind(absl::string_view name);
absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view name);
bool IsDraftKind(GroupKind kind);

int ElementBytes(KvDtype dtype);
// Smallest run of tokens that is contiguous per head: 1 or 16.
int TokenGroup(InnerOrder order);

// kInvalidArgument unless a power of two in [8, 256].
absl::Status CheckBlockTokens(int64_t block_tokens);

// The only description of the byte order of one group of the KV cache on one
// rank (kv_cache.md section 1.1). Memory is
//   [blocks][layers, comps, heads, head_block], row-major,
// blocks at block_stride_bytes(). A head block holds block_tokens x head_dim
// values of one head:
//   canonical        [block_tokens, head_dim]
//   cpu_tiles, K     [block_tokens / 16, head_dim / 2, 16, 2]
//   cpu_tiles, V     [block_tokens / 2, head_dim, 2], last index token parity
// where K is comp 0 and V is comp 1. A value; no thread rules. Offsets are
// unchecked except by assertions on ranges: call Validate() once first.
struct GroupLayout {
  GroupKind kind = GroupKind::kKeyValue;
  int comps = 2;     // K and V, or 1
  int heads = 0;     // on this rank
  int head_dim = 0;  // values
  KvDtype dtype = KvDtype::kBf16;
  InnerOrder inner_order = InnerOrder::kCanonical;
  int layers = 0;  // on this rank; layer indices below are local to it
  int block_tokens = 64;

  // kInvalidArgument, with the value: sizes < 1 or absurd, block_tokens,
  // cpu_tiles with a 4-byte dtype, an odd head_dim, other comps than 2 or
  // fewer than 16 tokens.
  absl::Status Validate() const;

  int element_bytes() const { return ElementBytes(dtype); }
  int token_group() const { return TokenGroup(inner_order); }

  int64_t token_bytes() const {  // of one head
    return int64_t{head_dim} * element_bytes();
  }
  int64_t head_block_bytes() const { return block_tokens * token_bytes(); }
  int64_t layer_bytes() const {  // of one layer of one block
    return comps * heads * head_block_bytes();
  }
  // What a block really holds, and its distance to the next one: the same
  // rounded up to 256.
  int64_t block_bytes() const { return layers * layer_bytes(); }
  int64_t block_stride_bytes() const {
    return (block_bytes() + 255) / 256 * 256;
  }

  // Byte offset of the head block (layer, comp, head) inside a block.
  int64_t HeadBlockOffsetInBlock(int layer, int comp, int head) const {
    return ((int64_t{layer} * comps + comp) * heads + head) *
           head_block_bytes();
  }
  // The same from the start of the group's memory (block 0).
  int64_t HeadBlockOffset(int64_t block, int layer, int comp, int head) const {
    return block * block_stride_bytes() +
           HeadBlockOffsetInBlock(layer, comp, head);
  }
  // Byte offset of value `d` of token `token` (0 .. block_tokens - 1) inside
  // its head block.
  int64_t ElementOffset(int comp, int token, int d) const;
  // Byte offset inside a head block of the run that starts at `token`, a
  // multiple of token_group().
  int64_t RunOffset(int token) const { return token * token_bytes(); }

  bool operator==(const GroupLayout&) const = default;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_KV_LAYOUT_H_
