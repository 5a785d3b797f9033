#include "tools/kv_dump_text.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice {
namespace {

using kvtransfer::GroupManifest;
using kvtransfer::LayoutManifest;
using kvtransfer::PlannedStream;
using kvtransfer::RankManifest;
using kvtransfer::Rectangle;
using kvtransfer::RectanglePlan;
using kvtransfer::StreamGroup;
using kvtransfer::StreamPlan;

std::string HexOr(const std::string& bytes, absl::string_view none) {
  return bytes.empty() ? std::string(none) : absl::BytesToHexString(bytes);
}

std::string Range(uint64_t first, uint64_t end) {
  return absl::StrFormat("[%d, %d)", first, end);
}

std::string GroupText(const GroupManifest& group) {
  return absl::StrFormat(
      "    group %d %s: heads %s of %d, comps %d, head_dim %d, %s, %s, token "
      "group %d\n"
      "      %d blocks of stride %d bytes from %d, %s region %s\n",
      group.id, kvtransfer::GroupKindName(group.kind),
      Range(group.first_head, group.first_head + group.num_heads),
      group.heads_total, group.comps, group.head_dim,
      kvtransfer::KvDtypeName(group.dtype),
      kvtransfer::InnerOrderName(group.inner_order), group.token_group,
      group.num_blocks, group.block_stride_bytes, group.base_address,
      group.memory_kind, HexOr(group.region_key, "none"));
}

const char* PlanKindName(kvtransfer::PlanKind kind) {
  switch (kind) {
    case kvtransfer::PlanKind::kSame:
      return "same layouts";
    case kvtransfer::PlanKind::kReshard:
      return "resharded";
    case kvtransfer::PlanKind::kConvert:
      return "converted inner order";
  }
  return "unknown";
}

// Ids 1, 2, ... for tokens [0, num_tokens).
std::vector<uint32_t> BlockList(uint32_t num_tokens, uint32_t block_tokens) {
  std::vector<uint32_t> blocks((num_tokens + block_tokens - 1) / block_tokens);
  std::iota(blocks.begin(), blocks.end(), 1u);
  return blocks;
}

std::string BlocksText(const Rectangle& r, uint32_t block_tokens) {
  return Range(r.t0 / block_tokens, (r.t1 + block_tokens - 1) / block_tokens);
}

// The streams of a checked plan with its block lists and rectangles.
class PlanWriter {
 public:
  explicit PlanWriter(const PlanArgs& args)
      : args_(args),
        source_blocks_(BlockList(args.num_tokens, args.source->block_tokens)),
        target_blocks_(
            BlockList(args.num_tokens, args.destination->block_tokens)) {}

  absl::StatusOr<std::string> Write() {
    ASSIGN_OR_RETURN(
        const std::vector<PlannedStream> planned,
        kvtransfer::PlanTransfer({.manifest = args_.source,
                                  .replica = args_.source_replica,
                                  .blocks = source_blocks_},
                                 {.manifest = args_.destination,
                                  .replica = args_.destination_replica,
                                  .blocks = target_blocks_},
                                 args_.skip_tokens, args_.num_tokens));
    for (const PlannedStream& one : planned) streams_.push_back(one.stream);
    WriteHead();
    for (const PlannedStream& one : planned) {
      WriteStream(one.stream, one.copies.size());
    }
    return std::move(out_);
  }

 private:
  static std::string Side(const LayoutManifest& manifest, uint32_t replica) {
    return absl::StrFormat(
        "%s generation %d replica %d: %d ranks, blocks of %d tokens",
        manifest.worker, manifest.generation, replica,
        manifest.replicas[replica].ranks.size(), manifest.block_tokens);
  }

  void WriteHead() {
    const uint64_t tokens = args_.num_tokens - args_.skip_tokens;
    absl::StrAppend(
        &out_, "source ", Side(*args_.source, args_.source_replica),
        "\ndestination ", Side(*args_.destination, args_.destination_replica),
        "\ntokens ", Range(args_.skip_tokens, args_.num_tokens), ", ",
        PayloadBytes(streams_, tokens), " bytes, ", streams_.size(),
        " streams, ", PlanKindName(PlanKindOf(streams_)), "\n");
  }

  void WriteStream(const StreamPlan& stream, size_t copies) {
    absl::StrAppend(&out_, "stream rank ", stream.source_rank, " to rank ",
                    stream.target_rank, ": layers ",
                    Range(stream.l0, stream.l1), ", spans of ",
                    stream.span_tokens(), " tokens, ",
                    stream.token_layer_bytes(),
                    " bytes a token and layer, copied in ", copies, "\n");
    for (const StreamGroup& group : stream.groups) {
      absl::StrAppend(
          &out_, "  group ", group.id, " ",
          kvtransfer::GroupKindName(group.source.layout.kind), ": heads ",
          absl::StrJoin(group.heads, " "), ", ",
          kvtransfer::InnerOrderName(group.source.layout.inner_order),
          group.converts()
              ? absl::StrCat(" to ", kvtransfer::InnerOrderName(
                                         group.target.layout.inner_order))
              : "",
          "\n");
    }
    uint32_t index = 0;
    for (const Rectangle& whole : Announced()) {
      Rectangle r = whole;
      r.l0 = std::max(r.l0, stream.l0);
      r.l1 = std::min(r.l1, stream.l1);
      if (r.l0 >= r.l1) continue;
      WriteRectangle(stream, r, index++);
    }
  }

  // As SourceTransfer announces them, over all streams.
  std::vector<Rectangle> Announced() const {
    uint64_t token_layer_bytes = 0;
    uint32_t layers = 0;
    for (const StreamPlan& stream : streams_) {
      token_layer_bytes += stream.token_layer_bytes();
      layers = std::max(layers, stream.l1);
    }
    return kvtransfer::CutRectangle(
        {args_.skip_tokens, args_.num_tokens, 0, layers},
        streams_[0].span_tokens(), token_layer_bytes);
  }

  void WriteRectangle(const StreamPlan& stream, const Rectangle& r,
                      uint32_t index) {
    RectanglePlan plan(stream, r);
    const size_t copies = plan.Merge({.ids = source_blocks_, .first_index = 0},
                                     {.ids = target_blocks_, .first_index = 0})
                              .size();
    absl::StrAppend(
        &out_, "  rectangle ", index, ": tokens ", Range(r.t0, r.t1),
        ", layers ", Range(r.l0, r.l1), ", source blocks ",
        BlocksText(r, stream.source_block_tokens), ", destination blocks ",
        BlocksText(r, stream.target_block_tokens), ", ", plan.num_spans(),
        " digests, ", plan.num_runs(), " runs, ", copies, " copies, ",
        uint64_t{r.t1 - r.t0} * (r.l1 - r.l0) * stream.token_layer_bytes(),
        " bytes\n");
  }

  const PlanArgs args_;
  const std::vector<uint32_t> source_blocks_;
  const std::vector<uint32_t> target_blocks_;
  std::vector<StreamPlan> streams_;
  std::string out_;
};

}  // namespace

std::string ManifestText(const LayoutManifest& manifest) {
  std::string out = absl::StrFormat(
      "worker %s generation %d\n"
      "manifest %s\n"
      "kv fingerprint %s\n"
      "draft fingerprint %s\n"
      "numerics %s\n"
      "blocks of %d tokens, %d replicas\n",
      manifest.worker, manifest.generation, HexOr(manifest.manifest_id, "none"),
      HexOr(manifest.kv_fingerprint, "none"),
      HexOr(manifest.draft_fingerprint, "none: drafts do not move"),
      manifest.numerics_id, manifest.block_tokens, manifest.replicas.size());
  for (size_t replica = 0; replica < manifest.replicas.size(); ++replica) {
    for (const RankManifest& rank : manifest.replicas[replica].ranks) {
      absl::StrAppend(
          &out, "  replica ", replica, " rank ", rank.rank, ": layers ",
          Range(rank.first_layer, rank.first_layer + rank.num_layers), "\n");
      for (const GroupManifest& group : rank.groups) {
        absl::StrAppend(&out, GroupText(group));
      }
    }
  }
  return out;
}

absl::StatusOr<std::string> PlanText(const PlanArgs& args) {
  RETURN_IF_ERROR(CheckCompatible(*args.source, *args.destination));
  if (args.source_replica >= args.source->replicas.size() ||
      args.destination_replica >= args.destination->replicas.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "replicas ", args.source_replica, " and ", args.destination_replica,
        " of ", args.source->replicas.size(), " and ",
        args.destination->replicas.size()));
  }
  if (args.num_tokens == 0 || args.num_tokens > kvtransfer::kMaxDigestTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        args.num_tokens, " tokens, want 1 to ", kvtransfer::kMaxDigestTokens));
  }
  return PlanWriter(args).Write();
}

std::string LedgerText(const v1::LedgerResponse& ledger,
                       const v1::WorkerReport* report) {
  std::string out;
  if (report != nullptr) {
    absl::StrAppend(
        &out, "worker ", report->identity().instance(), " generation ",
        report->identity().generation(), ", ",
        absl::AsciiStrToLower(v1::Role_Name(report->identity().role())), ", ",
        absl::AsciiStrToLower(v1::State_Name(report->state())), "\n");
  }
  absl::StrAppend(&out, "blocks: ", ledger.usable(),
                  " usable = ", ledger.free(), " free + ", ledger.cached(),
                  " cached + ", ledger.active(), " active + ",
                  ledger.quarantined(), " quarantined",
                  Balances(ledger) ? "" : ": does not add up", "\n");
  if (ledger.quarantined() > 0) {
    absl::StrAppend(&out, "oldest quarantine: ", ledger.oldest_quarantine_ms(),
                    " ms\n");
  }
  absl::StrAppend(&out, "open transfers: ", ledger.open_transfers(), "\n");
  if (report == nullptr) return out;
  for (const v1::PeerLink& link : report->links()) {
    absl::StrAppend(
        &out, "peer ", link.instance(), " generation ", link.generation(), ": ",
        absl::AsciiStrToLower(v1::PeerLink::LinkState_Name(link.state())),
        link.transport().empty() ? ""
                                 : absl::StrCat(" over ", link.transport()),
        link.detail().empty() ? "" : absl::StrCat(", ", link.detail()), "\n");
  }
  return out;
}

bool Balances(const v1::LedgerResponse& ledger) {
  return ledger.free() + ledger.cached() + ledger.active() +
             ledger.quarantined() ==
         ledger.usable();
}

}  // namespace sluice
