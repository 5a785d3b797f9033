#ifndef KVTRANSFER_LAYOUT_MANIFEST_H_
#define KVTRANSFER_LAYOUT_MANIFEST_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kvtransfer/kv_layout.h"

namespace sluice::kvtransfer {

// One group of one rank as a peer sees it.
struct GroupManifest {
  uint32_t id = 0;
  GroupKind kind = GroupKind::kKeyValue;
  uint32_t comps = 2;
  uint32_t heads_total = 0;  // of the whole model
  uint32_t first_head = 0;   // this rank holds [first_head, + num_heads)
  uint32_t num_heads = 0;
  uint32_t head_dim = 0;
  KvDtype dtype = KvDtype::kBf16;
  InnerOrder inner_order = InnerOrder::kCanonical;
  uint32_t token_group = 1;
  uint64_t block_stride_bytes = 0;
  uint64_t num_blocks = 0;    // with the null block
  uint64_t base_address = 0;  // offset of block 0 in the rank's region
  std::string region_key;     // names the region; opaque to a peer
  std::string memory_kind = "host";

  bool operator==(const GroupManifest&) const = default;
};

struct RankManifest {
  uint32_t rank = 0;
  uint32_t first_layer = 0;  // holds layers [first_layer, + num_layers)
  uint32_t num_layers = 0;
  std::vector<GroupManifest> groups;

  bool operator==(const RankManifest&) const = default;
};

struct ReplicaManifest {
  std::vector<RankManifest> ranks;

  bool operator==(const ReplicaManifest&) const = default;
};

// What a worker publishes of its KV cache (kv_transfer.md section 2);
// immutable for a generation. A plain value.
struct LayoutManifest {
  std::string worker;
  uint64_t generation = 0;
  std::string kv_fingerprint;     // 32 bytes
  std::string draft_fingerprint;  // 32 bytes, or empty: no drafts move
  std::string numerics_id;
  uint32_t block_tokens = 0;
  std::vector<ReplicaManifest> replicas;
  std::string manifest_id;  // 32 bytes, ComputeManifestId()

  bool operator==(const LayoutManifest&) const = default;
};

// The byte order of group `group` of `rank` in a worker with `block_tokens`.
GroupLayout LayoutOf(const GroupManifest& group, const RankManifest& rank,
                     uint32_t block_tokens);

// `layout` as a manifest group: one rank that holds all heads, base address 0.
GroupManifest ManifestOf(uint32_t id, const GroupLayout& layout,
                         uint64_t num_blocks);

// SHA-256 (32 bytes) of a canonical serialisation of everything but
// manifest_id: fields in declaration order, integers as 8 little-endian
// bytes, strings and lists behind their length.
std::string ComputeManifestId(const LayoutManifest& manifest);

// Start time in ms x 2^16 + 16 random bits.
uint64_t MakeGeneration(int64_t unix_micros, uint16_t random_bits);

// Head interval [first, end) of rank `rank` of `num_ranks` over `heads`.
std::pair<uint32_t, uint32_t> HeadInterval(uint32_t rank, uint32_t num_ranks,
                                           uint32_t heads);

// kInvalidArgument naming the field and value unless every size is sane,
// every rank's groups fit uint64 arithmetic, layers of a replica are complete
// and every head is held, and manifest_id is right. For ours and a peer's.
absl::Status ValidateManifest(const LayoutManifest& manifest);

// Whether KV of `ours` and `theirs` may be mixed; both are valid manifests.
// kFailedPrecondition `numerics <a> cannot continue <b>` first, then
// `kv layouts differ: group <id> <field> <ours> vs <theirs>`. `reason`, if
// given, is then "numerics", "layout" or "fingerprint".
absl::Status CheckCompatible(const LayoutManifest& ours,
                             const LayoutManifest& theirs,
                             std::string* reason = nullptr);

// Whether draft groups move between the two.
bool DraftsMove(const LayoutManifest& a, const LayoutManifest& b);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_LAYOUT_MANIFEST_H_
