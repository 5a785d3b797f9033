#include "kvtransfer/layout_manifest.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kMaxRanks = 1024;
constexpr uint32_t kMaxLayers = 1 << 16;
constexpr size_t kMaxGroups = 64;

// The canonical serialisation: fixed width, lengths first, so that no two
// different manifests share one.
class Serialiser {
 public:
  void Number(uint64_t value) {
    char bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
    out_.append(bytes, sizeof bytes);
  }
  void Text(absl::string_view text) {
    Number(text.size());
    out_.append(text.data(), text.size());
  }
  const std::string& out() const { return out_; }

 private:
  std::string out_;
};

void Serialise(const GroupManifest& group, Serialiser& out) {
  out.Number(group.id);
  out.Text(GroupKindName(group.kind));
  out.Number(group.comps);
  out.Number(group.heads_total);
  out.Number(group.first_head);
  out.Number(group.num_heads);
  out.Number(group.head_dim);
  out.Text(KvDtypeName(group.dtype));
  out.Text(InnerOrderName(group.inner_order));
  out.Number(group.token_group);
  out.Number(group.block_stride_bytes);
  out.Number(group.num_blocks);
  out.Number(group.base_address);
  out.Text(group.region_key);
  out.Text(group.memory_kind);
}

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("kv manifest: ", parts...));
}

absl::Status ValidateGroup(const GroupManifest& group, const RankManifest& rank,
                           uint32_t block_tokens) {
  if (group.num_heads == 0 || group.heads_total > kMaxLayers ||
      group.first_head > group.heads_total ||
      group.num_heads > group.heads_total - group.first_head) {
    return Bad("group ", group.id, " heads [", group.first_head, ", +",
               group.num_heads, ") of ", group.heads_total);
  }
  if (group.comps > 2 || group.head_dim > kMaxLayers) {
    return Bad("group ", group.id, " comps ", group.comps, " head_dim ",
               group.head_dim);
  }
  const GroupLayout layout = LayoutOf(group, rank, block_tokens);
  RETURN_IF_ERROR(layout.Validate());
  if (group.token_group != static_cast<uint32_t>(layout.token_group())) {
    return Bad("group ", group.id, " token_group ", group.token_group,
               ", want ", layout.token_group());
  }
  if (group.block_stride_bytes < static_cast<uint64_t>(layout.block_bytes()) ||
      group.block_stride_bytes % 256 != 0) {
    return Bad("group ", group.id, " block_stride_bytes ",
               group.block_stride_bytes, ", a block has ",
               layout.block_bytes());
  }
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max();
  if (group.num_blocks < 2 || group.num_blocks > (uint64_t{1} << 32) ||
      group.num_blocks > kLimit / group.block_stride_bytes ||
      group.base_address >
          kLimit - group.num_blocks * group.block_stride_bytes) {
    return Bad("group ", group.id, " num_blocks ", group.num_blocks,
               " base_address ", group.base_address, " do not fit");
  }
  if (group.base_address % 64 != 0) {
    return Bad("group ", group.id, " base_address ", group.base_address,
               " is not a multiple of 64");
  }
  return absl::OkStatus();
}

struct GroupFacts {
  const GroupManifest* first = nullptr;
  std::set<uint32_t> heads;
};

absl::Status ValidateReplica(const ReplicaManifest& replica,
                             uint32_t block_tokens) {
  if (replica.ranks.empty() || replica.ranks.size() > kMaxRanks) {
    return Bad(replica.ranks.size(), " ranks in a replica");
  }
  std::map<uint32_t, uint32_t> spans;  // first layer -> number
  std::map<uint32_t, std::map<uint32_t, GroupFacts>> stages;
  std::set<uint32_t> ids;
  for (const RankManifest& rank : replica.ranks) {
    if (!ids.insert(rank.rank).second) return Bad("rank ", rank.rank, " twice");
    if (rank.num_layers == 0 || rank.first_layer > kMaxLayers ||
        rank.num_layers > kMaxLayers) {
      return Bad("rank ", rank.rank, " layers [", rank.first_layer, ", +",
                 rank.num_layers, ")");
    }
    const auto span = spans.emplace(rank.first_layer, rank.num_layers).first;
    if (span->second != rank.num_layers) {
      return Bad("layers of rank ", rank.rank, " overlap another rank's");
    }
    if (rank.groups.empty() || rank.groups.size() > kMaxGroups) {
      return Bad("rank ", rank.rank, " has ", rank.groups.size(), " groups");
    }
    for (const GroupManifest& group : rank.groups) {
      RETURN_IF_ERROR(ValidateGroup(group, rank, block_tokens));
      GroupFacts& facts = stages[rank.first_layer][group.id];
      if (facts.first == nullptr) facts.first = &group;
      for (uint32_t h = 0; h < group.num_heads; ++h) {
        facts.heads.insert(group.first_head + h);
      }
    }
  }
  uint32_t next = 0;
  for (const auto& [first, count] : spans) {
    if (first != next) {
      return Bad("layers are not complete: want ", next, ", have ", first);
    }
    next = first + count;
  }
  for (const auto& [stage, groups] : stages) {
    for (const auto& [id, facts] : groups) {
      if (facts.heads.size() != facts.first->heads_total) {
        return Bad("group ", id, " holds ", facts.heads.size(), " of ",
                   facts.first->heads_total, " heads");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Differ(uint32_t id, absl::string_view field,
                    absl::string_view ours, absl::string_view theirs) {
  return absl::FailedPreconditionError(absl::StrCat(
      "kv layouts differ: group ", id, " ", field, " ", ours, " vs ", theirs));
}

absl::Status CompareGroup(const GroupManifest& a, const GroupManifest& b) {
  if (a.kind != b.kind) {
    return Differ(a.id, "kind", GroupKindName(a.kind), GroupKindName(b.kind));
  }
  const struct {
    absl::string_view field;
    uint32_t a, b;
  } numbers[] = {{"comps", a.comps, b.comps},
                 {"heads_total", a.heads_total, b.heads_total},
                 {"head_dim", a.head_dim, b.head_dim}};
  for (const auto& n : numbers) {
    if (n.a != n.b) {
      return Differ(a.id, n.field, absl::StrCat(n.a), absl::StrCat(n.b));
    }
  }
  if (a.dtype != b.dtype) {
    return Differ(a.id, "dtype", KvDtypeName(a.dtype), KvDtypeName(b.dtype));
  }
  return absl::OkStatus();
}

// One group of each id, over all ranks; draft groups only if `drafts`.
std::map<uint32_t, const GroupManifest*> GroupsOf(const LayoutManifest& m,
                                                  bool drafts) {
  std::map<uint32_t, const GroupManifest*> groups;
  for (const ReplicaManifest& replica : m.replicas) {
    for (const RankManifest& rank : replica.ranks) {
      for (const GroupManifest& group : rank.groups) {
        if (drafts || !IsDraftKind(group.kind)) groups[group.id] = &group;
      }
    }
  }
  return groups;
}

uint32_t NumLayers(const ReplicaManifest& replica) {
  uint32_t end = 0;
  for (const RankManifest& rank : replica.ranks) {
    end = std::max(end, rank.first_layer + rank.num_layers);
  }
  return end;
}

absl::Status CompareTokenGroups(const LayoutManifest& ours,
                                const LayoutManifest& theirs) {
  for (const LayoutManifest* side : {&ours, &theirs}) {
    for (const auto& [id, group] : GroupsOf(*side, true)) {
      for (const uint32_t tokens : {ours.block_tokens, theirs.block_tokens}) {
        if (tokens % group->token_group != 0) {
          return Differ(id, "block_tokens", absl::StrCat(ours.block_tokens),
                        absl::StrCat(theirs.block_tokens));
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

GroupLayout LayoutOf(const GroupManifest& group, const RankManifest& rank,
                     uint32_t block_tokens) {
  return GroupLayout{.kind = group.kind,
                     .comps = static_cast<int>(group.comps),
                     .heads = static_cast<int>(group.num_heads),
                     .head_dim = static_cast<int>(group.head_dim),
                     .dtype = group.dtype,
                     .inner_order = group.inner_order,
                     .layers = static_cast<int>(rank.num_layers),
                     .block_tokens = static_cast<int>(block_tokens)};
}

GroupManifest ManifestOf(uint32_t id, const GroupLayout& layout,
                         uint64_t num_blocks) {
  GroupManifest group;
  group.id = id;
  group.kind = layout.kind;
  group.comps = static_cast<uint32_t>(layout.comps);
  group.heads_total = static_cast<uint32_t>(layout.heads);
  group.num_heads = static_cast<uint32_t>(layout.heads);
  group.head_dim = static_cast<uint32_t>(layout.head_dim);
  group.dtype = layout.dtype;
  group.inner_order = layout.inner_order;
  group.token_group = static_cast<uint32_t>(layout.token_group());
  group.block_stride_bytes = static_cast<uint64_t>(layout.block_stride_bytes());
  group.num_blocks = num_blocks;
  return group;
}

std::string ComputeManifestId(const LayoutManifest& m) {
  Serialiser out;
  out.Text("sluice.kv.manifest.1");
  out.Text(m.worker);
  out.Number(m.generation);
  out.Text(m.kv_fingerprint);
  out.Text(m.draft_fingerprint);
  out.Text(m.numerics_id);
  out.Number(m.block_tokens);
  out.Number(m.replicas.size());
  for (const ReplicaManifest& replica : m.replicas) {
    out.Number(replica.ranks.size());
    for (const RankManifest& rank : replica.ranks) {
      out.Number(rank.rank);
      out.Number(rank.first_layer);
      out.Number(rank.num_layers);
      out.Number(rank.groups.size());
      for (const GroupManifest& group : rank.groups) Serialise(group, out);
    }
  }
  return sluice::ToBytes(Sha256Of(out.out()));
}

uint64_t MakeGeneration(int64_t unix_micros, uint16_t random_bits) {
  return (static_cast<uint64_t>(unix_micros / 1000) << 16) | random_bits;
}

std::pair<uint32_t, uint32_t> HeadInterval(uint32_t rank, uint32_t num_ranks,
                                           uint32_t heads) {
  const uint64_t first = uint64_t{rank} * heads / num_ranks;
  const uint64_t end =
      std::max(first + 1, (uint64_t{rank} + 1) * heads / num_ranks);
  return {static_cast<uint32_t>(first), static_cast<uint32_t>(end)};
}

absl::Status ValidateManifest(const LayoutManifest& m) {
  if (m.worker.empty() || m.worker.size() > 256) {
    return Bad("worker name of ", m.worker.size(), " bytes");
  }
  if (m.generation == 0) return Bad("generation 0");
  if (m.kv_fingerprint.size() != 32) {
    return Bad("kv_fingerprint has ", m.kv_fingerprint.size(), " bytes");
  }
  if (!m.draft_fingerprint.empty() && m.draft_fingerprint.size() != 32) {
    return Bad("draft_fingerprint has ", m.draft_fingerprint.size(), " bytes");
  }
  RETURN_IF_ERROR(CheckBlockTokens(m.block_tokens));
  if (m.replicas.empty() || m.replicas.size() > kMaxRanks) {
    return Bad(m.replicas.size(), " replicas");
  }
  for (const ReplicaManifest& replica : m.replicas) {
    RETURN_IF_ERROR(ValidateReplica(replica, m.block_tokens));
  }
  const std::map<uint32_t, const GroupManifest*> facts = GroupsOf(m, true);
  for (const ReplicaManifest& replica : m.replicas) {
    if (NumLayers(replica) != NumLayers(m.replicas.front())) {
      return Bad("replicas differ in layers");
    }
    for (const RankManifest& rank : replica.ranks) {
      for (const GroupManifest& group : rank.groups) {
        if (absl::Status s = CompareGroup(group, *facts.at(group.id));
            !s.ok()) {
          return Bad("group ", group.id,
                     " differs between ranks: ", s.message());
        }
      }
    }
  }
  if (m.manifest_id != ComputeManifestId(m)) return Bad("manifest_id is wrong");
  return absl::OkStatus();
}

bool DraftsMove(const LayoutManifest& a, const LayoutManifest& b) {
  return !a.draft_fingerprint.empty() &&
         a.draft_fingerprint == b.draft_fingerprint;
}

namespace {

absl::Status CompareLayouts(const LayoutManifest& ours,
                            const LayoutManifest& theirs) {
  const bool drafts = DraftsMove(ours, theirs);
  const std::map<uint32_t, const GroupManifest*> a = GroupsOf(ours, drafts);
  const std::map<uint32_t, const GroupManifest*> b = GroupsOf(theirs, drafts);
  for (const auto& [id, group] : a) {
    const auto other = b.find(id);
    if (other == b.end()) return Differ(id, "presence", "held", "absent");
    RETURN_IF_ERROR(CompareGroup(*group, *other->second));
  }
  for (const auto& [id, group] : b) {
    if (!a.contains(id)) return Differ(id, "presence", "absent", "held");
  }
  const uint32_t layers = NumLayers(ours.replicas.front());
  const uint32_t their_layers = NumLayers(theirs.replicas.front());
  if (layers != their_layers && !a.empty()) {
    return Differ(a.begin()->first, "layers", absl::StrCat(layers),
                  absl::StrCat(their_layers));
  }
  return CompareTokenGroups(ours, theirs);
}

}  // namespace

absl::Status CheckCompatible(const LayoutManifest& ours,
                             const LayoutManifest& theirs,
                             std::string* reason) {
  const auto refuse = [reason](const char* why, absl::Status status) {
    if (reason != nullptr) *reason = why;
    return status;
  };
  if (ours.numerics_id != theirs.numerics_id) {
    return refuse("numerics", absl::FailedPreconditionError(absl::StrCat(
                                  "numerics ", ours.numerics_id,
                                  " cannot continue ", theirs.numerics_id)));
  }
  if (absl::Status status = CompareLayouts(ours, theirs); !status.ok()) {
    return refuse("layout", status);
  }
  if (ours.kv_fingerprint != theirs.kv_fingerprint) {
    return refuse("fingerprint",
                  absl::FailedPreconditionError(absl::StrCat(
                      "kv layouts differ: kv_fingerprint ",
                      absl::BytesToHexString(ours.kv_fingerprint), " vs ",
                      absl::BytesToHexString(theirs.kv_fingerprint))));
  }
  return absl::OkStatus();
}

}  // namespace sluice::kvtransfer
