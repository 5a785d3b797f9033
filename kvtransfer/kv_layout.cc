#include "kvtransfer/kv_layout.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::kvtransfer {
namespace {

constexpr int kTileTokens = 16;
// Far beyond any model; keeps every product below inside int64.
constexpr int kMaxCount = 1 << 16;

struct KindName {
  GroupKind kind;
  absl::string_view name;
};
constexpr KindName kKinds[] = {
    {GroupKind::kKeyValue, "key_value"},
    {GroupKind::kLatent, "latent"},
    {GroupKind::kRope, "rope"},
    {GroupKind::kScale, "scale"},
    {GroupKind::kIndex, "index"},
    {GroupKind::kDraftKeyValue, "draft_key_value"},
};

absl::Status CheckCount(absl::string_view field, int value) {
  if (value >= 1 && value <= kMaxCount) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "kv group ", field, " must be in [1, ", kMaxCount, "], got ", value));
}

}  // namespace

absl::string_view GroupKindName(GroupKind kind) {
  for (const KindName& entry : kKinds) {
    if (entry.kind == kind) return entry.name;
  }
  return "unknown";
}

absl::string_view KvDtypeName(KvDtype dtype) {
  return dtype == KvDtype::kBf16 ? "bf16" : "f32";
}

absl::string_view InnerOrderName(InnerOrder order) {
  return order == InnerOrder::kCanonical ? "canonical" : "cpu_tiles";
}

absl::StatusOr<GroupKind> ParseGroupKind(absl::string_view name) {
  for (const KindName& entry : kKinds) {
    if (entry.name == name) return entry.kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown kv group kind \"", name, "\""));
}

absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view name) {
  if (name == "bf16") return KvDtype::kBf16;
  if (name == "f32") return KvDtype::kF32;
  return absl::InvalidArgumentError(
      absl::StrCat("unknown kv dtype \"", name, "\", have bf16, f32"));
}

bool IsDraftKind(GroupKind kind) { return kind == GroupKind::kDraftKeyValue; }

int ElementBytes(KvDtype dtype) { return dtype == KvDtype::kBf16 ? 2 : 4; }

int TokenGroup(InnerOrder order) {
  return order == InnerOrder::kCanonical ? 1 : kTileTokens;
}

absl::Status CheckBlockTokens(int64_t block_tokens) {
  if (block_tokens >= 8 && block_tokens <= 256 &&
      (block_tokens & (block_tokens - 1)) == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "block_tokens must be a power of two in [8, 256], got ", block_tokens));
}

absl::Status GroupLayout::Validate() const {
  if (absl::Status s = CheckBlockTokens(block_tokens); !s.ok()) return s;
  if (absl::Status s = CheckCount("comps", comps); !s.ok()) return s;
  if (absl::Status s = CheckCount("heads", heads); !s.ok()) return s;
  if (absl::Status s = CheckCount("head_dim", head_dim); !s.ok()) return s;
  if (absl::Status s = CheckCount("layers", layers); !s.ok()) return s;
  // 2^42 bytes a block: above it offsets of many blocks would overflow.
  const __int128 bytes = __int128{block_tokens} * comps * heads * head_dim *
                         layers * element_bytes();
  if (bytes > (__int128{1} << 42)) {
    return absl::InvalidArgumentError("kv group block is larger than 4 TiB");
  }
  if (inner_order == InnerOrder::kCanonical) return absl::OkStatus();
  if (dtype != KvDtype::kBf16 || comps != 2 || head_dim % 2 != 0 ||
      block_tokens < kTileTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cpu_tiles needs 16-bit K and V, an even head_dim and block_tokens >= ",
        kTileTokens, ", got ", KvDtypeName(dtype), ", comps ", comps,
        ", head_dim ", head_dim, ", block_tokens ", block_tokens));
  }
  return absl::OkStatus();
}

int64_t GroupLayout::ElementOffset(int comp, int token, int d) const {
  if (inner_order == InnerOrder::kCanonical) {
    return token * token_bytes() + int64_t{d} * element_bytes();
  }
  int64_t element;
  if (comp == 0) {
    element =
        ((int64_t{token} / kTileTokens * (head_dim / 2) + d / 2) * kTileTokens +
         token % kTileTokens) *
            2 +
        d % 2;
  } else {
    element = (int64_t{token} / 2 * head_dim + d) * 2 + token % 2;
  }
  return element * element_bytes();
}

}  // namespace sluice::kvtransfer
