#include "kvtransfer/transfer_plan.h"

#include <limits>
#include <map>
#include <tuple>

#include "absl/container/flat_hash_set.h"
#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {
namespace {

struct RankGroup {
  const RankManifest* rank;
  const GroupManifest* group;
};

bool Holds(const GroupManifest& group, uint32_t head) {
  return head >= group.first_head && head < group.first_head + group.num_heads;
}

// Source ranks of one pipeline stage that hold `head` of group `id`, by rank.
std::vector<RankGroup> Holders(const ReplicaManifest& replica,
                               uint32_t first_layer, uint32_t id,
                               uint32_t head) {
  std::vector<RankGroup> holders;
  for (const RankManifest& rank : replica.ranks) {
    if (rank.first_layer != first_layer) continue;
    for (const GroupManifest& group : rank.groups) {
      if (group.id == id && Holds(group, head)) {
        holders.push_back({&rank, &group});
      }
    }
  }
  std::sort(holders.begin(), holders.end(),
            [](const RankGroup& a, const RankGroup& b) {
              return a.rank->rank < b.rank->rank;
            });
  return holders;
}

GroupSide SideOf(const RankManifest& rank, const GroupManifest& group,
                 uint32_t block_tokens) {
  return GroupSide{.layout = LayoutOf(group, rank, block_tokens),
                   .first_layer = rank.first_layer,
                   .first_head = group.first_head,
                   .base_address = group.base_address,
                   .stride_bytes = group.block_stride_bytes,
                   .num_blocks = group.num_blocks};
}

absl::Status CheckReplica(const LayoutManifest& manifest, uint32_t replica) {
  if (replica < manifest.replicas.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("replica ", replica, " of ",
                                                 manifest.worker, ", has ",
                                                 manifest.replicas.size()));
}

// Block ids below `limit`, about `expected` of them. A bit each where that is
// not much more memory than the ids themselves: a long prompt has thousands.
class BlockSet {
 public:
  BlockSet(uint64_t limit, size_t expected) {
    if (limit / 256 <= expected) bits_.resize(limit);
  }
  // False: was there already.
  bool Insert(uint32_t block) {
    if (bits_.empty()) return ids_.insert(block).second;
    const bool is_new = !bits_[block];
    bits_[block] = true;
    return is_new;
  }

 private:
  std::vector<bool> bits_;
  absl::flat_hash_set<uint32_t> ids_;
};

using StreamMap = std::map<std::tuple<uint32_t, uint32_t, uint32_t>,
                           StreamPlan>;  // source, target rank, first layer

// Adds every head of `target` that comes from the stage at `first_layer`.
void AddGroup(const ReplicaManifest& source, uint32_t first_layer,
              const RankGroup& target, StreamPlan shape, StreamMap& streams) {
  for (uint32_t h = 0; h < target.group->num_heads; ++h) {
    const uint32_t head = target.group->first_head + h;
    const std::vector<RankGroup> holders =
        Holders(source, first_layer, target.group->id, head);
    if (holders.empty()) continue;
    const RankGroup& from = holders[target.rank->rank % holders.size()];
    shape.source_rank = from.rank->rank;
    shape.target_rank = target.rank->rank;
    StreamPlan& stream =
        streams
            .try_emplace({shape.source_rank, shape.target_rank, shape.l0},
                         shape)
            .first->second;
    if (stream.groups.empty() || stream.groups.back().id != target.group->id) {
      StreamGroup group;
      group.id = target.group->id;
      group.heads_total = target.group->heads_total;
      group.source = SideOf(*from.rank, *from.group, shape.source_block_tokens);
      group.target =
          SideOf(*target.rank, *target.group, shape.target_block_tokens);
      stream.groups.push_back(std::move(group));
    }
    stream.groups.back().heads.push_back(head);
  }
}

}  // namespace

uint64_t GroupSide::Offset(uint32_t block, uint32_t layer, uint32_t comp,
                           uint32_t head, uint32_t token) const {
  return base_address + block * stride_bytes +
         static_cast<uint64_t>(layout.HeadBlockOffsetInBlock(
             static_cast<int>(layer - first_layer), static_cast<int>(comp),
             static_cast<int>(head - first_head))) +
         static_cast<uint64_t>(layout.RunOffset(static_cast<int>(token)));
}

absl::StatusOr<std::vector<StreamPlan>> PlanStreams(
    const LayoutManifest& source, uint32_t source_replica,
    const LayoutManifest& target, uint32_t target_replica) {
  RETURN_IF_ERROR(CheckReplica(source, source_replica));
  RETURN_IF_ERROR(CheckReplica(target, target_replica));
  const ReplicaManifest& from = source.replicas[source_replica];
  const bool drafts = DraftsMove(source, target);
  std::map<uint32_t, uint32_t> stages;  // first layer -> end
  for (const RankManifest& rank : from.ranks) {
    stages[rank.first_layer] = rank.first_layer + rank.num_layers;
  }
  StreamMap streams;
  for (const RankManifest& rank : target.replicas[target_replica].ranks) {
    for (const auto& [first, end] : stages) {
      StreamPlan shape;
      shape.l0 = std::max(first, rank.first_layer);
      shape.l1 = std::min(end, rank.first_layer + rank.num_layers);
      shape.source_block_tokens = source.block_tokens;
      shape.target_block_tokens = target.block_tokens;
      if (shape.l0 >= shape.l1) continue;
      for (const GroupManifest& group : rank.groups) {
        if (IsDraftKind(group.kind) && !drafts) continue;
        AddGroup(from, first, {&rank, &group}, shape, streams);
      }
    }
  }
  std::vector<StreamPlan> result;
  for (auto& [key, stream] : streams) result.push_back(std::move(stream));
  return result;
}

uint64_t StreamPlan::token_layer_bytes() const {
  uint64_t bytes = 0;
  for (const StreamGroup& group : groups) {
    bytes += static_cast<uint64_t>(group.source.layout.comps) *
             group.heads.size() *
             static_cast<uint64_t>(group.source.layout.token_bytes());
  }
  return bytes;
}

PlanKind PlanKindOf(absl::Span<const StreamPlan> streams) {
  bool same = streams.size() == 1;
  for (const StreamPlan& stream : streams) {
    same = same && stream.source_block_tokens == stream.target_block_tokens;
    for (const StreamGroup& group : stream.groups) {
      if (group.converts()) return PlanKind::kConvert;
      same = same && group.heads.size() == group.heads_total;
    }
  }
  return same ? PlanKind::kSame : PlanKind::kReshard;
}

uint64_t PayloadBytes(absl::Span<const StreamPlan> streams, uint64_t tokens) {
  uint64_t bytes = 0;
  for (const StreamPlan& stream : streams) {
    bytes += stream.token_layer_bytes() * (stream.l1 - stream.l0) * tokens;
  }
  return bytes;
}

std::vector<Rectangle> CutRectangle(const Rectangle& whole,
                                    uint32_t span_tokens,
                                    uint64_t token_layer_bytes,
                                    uint64_t max_bytes) {
  // All layers of a few blocks rather than one layer of many: a block is
  // contiguous over its layers.
  const uint64_t budget = std::max<uint64_t>(
      span_tokens, max_bytes / std::max<uint64_t>(1, token_layer_bytes));
  const uint32_t layers = static_cast<uint32_t>(
      std::min<uint64_t>(whole.l1 - whole.l0, budget / span_tokens));
  const uint32_t tokens = static_cast<uint32_t>(std::min<uint64_t>(
      budget / layers / span_tokens * span_tokens, kMaxDigestTokens));
  std::vector<Rectangle> out;
  for (uint32_t l0 = whole.l0; l0 < whole.l1; l0 += layers) {
    const uint32_t l1 = std::min(whole.l1, l0 + layers);
    for (uint32_t t0 = whole.t0; t0 < whole.t1;) {
      const uint32_t t1 =
          std::min(whole.t1, t0 / span_tokens * span_tokens + tokens);
      out.push_back({t0, t1, l0, l1});
      t0 = t1;
    }
  }
  return out;
}

std::vector<TokenRun> CutTokens(uint32_t t0, uint32_t t1,
                                uint32_t source_block_tokens,
                                uint32_t target_block_tokens) {
  const uint32_t cut = std::min(source_block_tokens, target_block_tokens);
  std::vector<TokenRun> runs;
  if (t0 < t1) runs.reserve((t1 - t0) / cut + 2);
  for (uint32_t t = t0; t < t1;) {
    const uint32_t end = std::min(t1, (t / cut + 1) * cut);
    runs.push_back(TokenRun{.t = t,
                            .tokens = end - t,
                            .source_index = t / source_block_tokens,
                            .source_offset = t % source_block_tokens,
                            .target_index = t / target_block_tokens,
                            .target_offset = t % target_block_tokens});
    t = end;
  }
  return runs;
}

RectanglePlan::RectanglePlan(const StreamPlan& stream,
                             const Rectangle& rectangle)
    : stream_(&stream),
      rectangle_(rectangle),
      span_shift_(
          static_cast<uint32_t>(absl::countr_zero(stream.span_tokens()))) {
  rectangle_.l0 = std::max(rectangle.l0, stream.l0);
  rectangle_.l1 = std::max(rectangle_.l0, std::min(rectangle.l1, stream.l1));
  token_runs_ =
      CutTokens(rectangle.t0, rectangle.t1, stream.source_block_tokens,
                stream.target_block_tokens);
  for (const StreamGroup& group : stream.groups) {
    runs_per_token_run_ += static_cast<uint32_t>(RunsOfGroup(group));
  }
  uint64_t start = 0;
  uint64_t bytes = 0;
  uint32_t bytes_of = 0;  // tokens; all runs but the first and last are alike
  wire_starts_.reserve(token_runs_.size() + 1);
  for (const TokenRun& tokens : token_runs_) {
    wire_starts_.push_back(start);
    if (tokens.tokens != bytes_of) {
      bytes = 0;
      bytes_of = tokens.tokens;
      for (const StreamGroup& group : stream.groups) {
        bytes += RunsOfGroup(group) * RunWireBytes(group, bytes_of);
      }
    }
    start += bytes;
  }
  wire_starts_.push_back(start);
}

uint64_t RectanglePlan::RunsOfGroup(const StreamGroup& group) const {
  return uint64_t{rectangle_.l1 - rectangle_.l0} *
         static_cast<uint64_t>(group.source.layout.comps) * group.heads.size();
}

uint64_t RectanglePlan::RunWireBytes(const StreamGroup& group,
                                     uint32_t tokens) const {
  const uint64_t unit = static_cast<uint64_t>(TokenGroup(group.wire_order()));
  return (tokens + unit - 1) / unit * unit *
         static_cast<uint64_t>(group.source.layout.token_bytes());
}

RectanglePlan::Run RectanglePlan::run(uint32_t index) const {
  SLUICE_CHECK(index < num_runs());
  const uint32_t which = index / runs_per_token_run_;
  uint64_t rest = index % runs_per_token_run_;
  Run run;
  run.tokens = token_runs_[which];
  run.wire_offset = wire_starts_[which];
  while (true) {
    const StreamGroup& group = stream_->groups[run.group_index];
    run.wire_bytes = RunWireBytes(group, run.tokens.tokens);
    const uint64_t runs = RunsOfGroup(group);
    if (rest < runs) break;
    rest -= runs;
    run.wire_offset += runs * run.wire_bytes;
    ++run.group_index;
  }
  run.wire_offset += rest * run.wire_bytes;
  const StreamGroup& group = stream_->groups[run.group_index];
  const GroupLayout& layout = group.source.layout;
  const uint32_t comps = static_cast<uint32_t>(layout.comps);
  const uint64_t row = rest / group.heads.size();
  run.shape.group_id = group.id;
  run.shape.head_dim = static_cast<uint32_t>(layout.head_dim);
  run.shape.element_bytes = static_cast<uint32_t>(layout.element_bytes());
  run.shape.tokens = run.tokens.tokens;
  run.shape.index =
      WordIndex{.layer = rectangle_.l0 + static_cast<uint32_t>(row / comps),
                .comps = comps,
                .comp = static_cast<uint32_t>(row % comps),
                .heads_total = group.heads_total,
                .head = group.heads[rest % group.heads.size()],
                .token = run.tokens.t,
                .words = static_cast<uint32_t>((layout.token_bytes() + 7) / 8)};
  return run;
}

uint32_t RectanglePlan::FindRun(uint64_t offset) const {
  SLUICE_CHECK(offset < wire_bytes());
  const size_t which =
      static_cast<size_t>(
          std::upper_bound(wire_starts_.begin(), wire_starts_.end(), offset) -
          wire_starts_.begin()) -
      1;
  uint64_t rest = offset - wire_starts_[which];
  uint64_t index = which * runs_per_token_run_;
  for (const StreamGroup& group : stream_->groups) {
    const uint64_t bytes = RunWireBytes(group, token_runs_[which].tokens);
    const uint64_t runs = RunsOfGroup(group);
    if (rest < runs * bytes) return static_cast<uint32_t>(index + rest / bytes);
    rest -= runs * bytes;
    index += runs;
  }
  SLUICE_CHECK(false && "wire offset beyond its token run");
  std::abort();
}

uint32_t RectanglePlan::num_spans() const {
  const uint32_t span = stream_->span_tokens();
  return (rectangle_.t1 + span - 1) / span - rectangle_.t0 / span;
}

uint32_t RectanglePlan::SpanOfToken(uint32_t token) const {
  return (token >> span_shift_) - (rectangle_.t0 >> span_shift_);
}

uint64_t RectanglePlan::SourceOffset(const Run& run,
                                     const BlockSlice& source_blocks) const {
  const WordIndex& at = run.shape.index;
  return stream_->groups[run.group_index].source.Offset(
      source_blocks[run.tokens.source_index], at.layer, at.comp, at.head,
      run.tokens.source_offset);
}

uint64_t RectanglePlan::TargetOffset(const Run& run,
                                     const BlockSlice& target_blocks) const {
  const WordIndex& at = run.shape.index;
  return stream_->groups[run.group_index].target.Offset(
      target_blocks[run.tokens.target_index], at.layer, at.comp, at.head,
      run.tokens.target_offset);
}

// A run as the fast loops take it; words 0 where they cannot.
PieceRun RectanglePlan::PieceRunOf(const Run& run, uint64_t size_bytes) const {
  const GroupLayout& layout = stream_->groups[run.group_index].source.layout;
  const WordIndex& index = run.shape.index;
  PieceRun piece;
  if (run.shape.token_bytes() % 8 != 0) return piece;
  if (layout.inner_order == InnerOrder::kCpuTiles) {
    if (index.words % 4 != 0) return piece;
    piece.order = index.comp == 0 ? RunOrder::kKeyTiles : RunOrder::kValueTiles;
  }
  piece.words = index.words;
  piece.tokens = run.shape.tokens;
  piece.size_bytes = size_bytes;
  WordIndex first = index;
  first.token = 0;
  piece.key = DigestKey(first.Value(), run.shape.group_id);
  return piece;
}

void RectanglePlan::Fill(Pattern& pattern, uint32_t first_run) const {
  const bool equal_blocks =
      stream_->source_block_tokens == stream_->target_block_tokens;
  for (uint32_t i = 0; i < runs_per_token_run_; ++i) {
    const Run run = this->run(first_run + i);
    const StreamGroup& group = stream_->groups[run.group_index];
    const WordIndex& at = run.shape.index;
    uint64_t size = run.shape.BytesIn(group.source.layout.inner_order);
    if (equal_blocks && run.tokens.source_offset == 0 && !group.converts()) {
      size = static_cast<uint64_t>(group.source.layout.head_block_bytes());
    }
    const Copy copy{
        .group_index = run.group_index,
        .source_offset = group.source.Offset(0, at.layer, at.comp, at.head,
                                             run.tokens.source_offset),
        .target_offset = group.target.Offset(0, at.layer, at.comp, at.head,
                                             run.tokens.target_offset),
        .size_bytes = size,
        .first_run = i};
    pattern.runs.push_back(group.converts() ? PieceRun{}
                                            : PieceRunOf(run, size));
    Copy* last = pattern.copies.empty() ? nullptr : &pattern.copies.back();
    if (last != nullptr && !group.converts() &&
        last->group_index == copy.group_index &&
        last->source_offset + last->size_bytes == copy.source_offset &&
        last->target_offset + last->size_bytes == copy.target_offset) {
      last->size_bytes += copy.size_bytes;
      ++last->num_runs;
    } else {
      pattern.copies.push_back(copy);
    }
  }
}

// Blocks repeat: few token runs lie differently in theirs.
void RectanglePlan::FindPatterns() {
  if (!patterns_.empty() || runs_per_token_run_ == 0) return;
  for (size_t i = 0; i < token_runs_.size(); ++i) {
    const TokenRun& run = token_runs_[i];
    size_t which = 0;
    while (which < patterns_.size() &&
           (patterns_[which].source_offset != run.source_offset ||
            patterns_[which].target_offset != run.target_offset ||
            patterns_[which].tokens != run.tokens)) {
      ++which;
    }
    if (which == patterns_.size()) {
      Pattern pattern;
      pattern.source_offset = run.source_offset;
      pattern.target_offset = run.target_offset;
      pattern.tokens = run.tokens;
      Fill(pattern, static_cast<uint32_t>(i) * runs_per_token_run_);
      patterns_.push_back(std::move(pattern));
    }
    pattern_of_.push_back(static_cast<uint32_t>(which));
  }
}

std::vector<Copy> RectanglePlan::Merge(const BlockSlice& source_blocks,
                                       const BlockSlice& target_blocks) {
  FindPatterns();
  size_t count = 0;
  for (const uint32_t which : pattern_of_) {
    count += patterns_[which].copies.size();
  }
  std::vector<Copy> copies;
  copies.reserve(count);
  for (size_t i = 0; i < pattern_of_.size(); ++i) {
    const uint64_t source = source_blocks[token_runs_[i].source_index];
    const uint64_t target = target_blocks[token_runs_[i].target_index];
    for (Copy copy : patterns_[pattern_of_[i]].copies) {
      const StreamGroup& group = stream_->groups[copy.group_index];
      copy.source_offset += source * group.source.stride_bytes;
      copy.target_offset += target * group.target.stride_bytes;
      copy.token_run = static_cast<uint32_t>(i);
      copy.first_run += copy.token_run * runs_per_token_run_;
      copies.push_back(copy);
    }
  }
  return copies;
}

RectanglePlan::Piece RectanglePlan::PieceOf(const Copy& copy) const {
  const std::vector<PieceRun>& runs =
      patterns_[pattern_of_[copy.token_run]].runs;
  const uint32_t first = copy.first_run - copy.token_run * runs_per_token_run_;
  const uint32_t token = token_runs_[copy.token_run].t;
  Piece piece{.token = token, .span = SpanOfToken(token)};
  // All runs of a copy are of one group: whole words in all or in none.
  if (runs[first].words > 0) {
    piece.runs = absl::MakeSpan(runs).subspan(first, copy.num_runs);
  }
  return piece;
}

uint64_t NumBlocks(const LayoutManifest& manifest, uint32_t replica) {
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (const RankManifest& rank : manifest.replicas[replica].ranks) {
    for (const GroupManifest& group : rank.groups) {
      least = std::min(least, group.num_blocks);
    }
  }
  return least;
}

absl::Status CheckBlockList(const BlockListArgs& args) {
  RETURN_IF_ERROR(CheckReplica(*args.manifest, args.replica));
  const uint32_t block_tokens = args.manifest->block_tokens;
  if (args.num_tokens == 0 || args.num_tokens > kMaxDigestTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_tokens ", args.num_tokens, ", limit ", kMaxDigestTokens));
  }
  if (args.skip_tokens >= args.num_tokens ||
      (args.is_target && args.skip_tokens % block_tokens != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("skip of ", args.skip_tokens, " tokens, num_tokens ",
                     args.num_tokens, ", block_tokens ", block_tokens));
  }
  const size_t want = (args.num_tokens + block_tokens - 1) / block_tokens;
  if (args.blocks.size() != want) {
    return absl::InvalidArgumentError(
        absl::StrCat(args.blocks.size(), " blocks for ", args.num_tokens,
                     " tokens of ", block_tokens, " a block, want ", want));
  }
  const uint64_t limit = NumBlocks(*args.manifest, args.replica);
  BlockSet seen(limit, want);
  for (size_t i = args.skip_tokens / block_tokens; i < want; ++i) {
    const uint32_t block = args.blocks[i];
    if (block == 0 || block >= limit) {
      return absl::InvalidArgumentError(
          absl::StrCat("block ", block, " at ", i, ", limit ", limit));
    }
    if (args.is_target && !seen.Insert(block)) {
      return absl::InvalidArgumentError(
          absl::StrCat("block ", block, " twice, at ", i));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PlannedStream>> PlanTransfer(const PlanSide& source,
                                                        const PlanSide& target,
                                                        uint32_t skip_tokens,
                                                        uint32_t num_tokens) {
  RETURN_IF_ERROR(CheckBlockList({.manifest = source.manifest,
                                  .replica = source.replica,
                                  .blocks = source.blocks,
                                  .skip_tokens = skip_tokens,
                                  .num_tokens = num_tokens}));
  RETURN_IF_ERROR(CheckBlockList({.manifest = target.manifest,
                                  .replica = target.replica,
                                  .blocks = target.blocks,
                                  .skip_tokens = skip_tokens,
                                  .num_tokens = num_tokens,
                                  .is_target = true}));
  ASSIGN_OR_RETURN(std::vector<StreamPlan> streams,
                   PlanStreams(*source.manifest, source.replica,
                               *target.manifest, target.replica));
  std::vector<PlannedStream> planned;
  for (StreamPlan& stream : streams) {
    RectanglePlan plan(stream, {skip_tokens, num_tokens, stream.l0, stream.l1});
    std::vector<Copy> copies = plan.Merge({source.blocks}, {target.blocks});
    planned.push_back({std::move(stream), std::move(copies)});
  }
  return planned;
}

}  // namespace sluice::kvtransfer
