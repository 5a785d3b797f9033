#ifndef KVTRANSFER_TRANSFER_PLAN_H_
#define KVTRANSFER_TRANSFER_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/piece_kernels.h"
#include "kvtransfer/run_copier.h"

namespace sluice::kvtransfer {

// One side of a group of a stream.
struct GroupSide {
  GroupLayout layout;
  uint32_t first_layer = 0;  // of the rank, global
  uint32_t first_head = 0;
  uint64_t base_address = 0;  // in the region
  uint64_t stride_bytes = 0;
  uint64_t num_blocks = 0;

  // Offset in the region of token `token` of a head block; layer and head
  // global.
  uint64_t Offset(uint32_t block, uint32_t layer, uint32_t comp, uint32_t head,
                  uint32_t token) const;
};

struct StreamGroup {
  uint32_t id = 0;
  uint32_t heads_total = 0;
  std::vector<uint32_t> heads;  // global, ascending, that move here
  GroupSide source;
  GroupSide target;

  bool converts() const {
    return source.layout.inner_order != target.layout.inner_order;
  }
  // How the bytes of a run travel: canonical where the orders differ.
  InnerOrder wire_order() const {
    return converts() ? InnerOrder::kCanonical : source.layout.inner_order;
  }
};

// What one source rank sends to one destination rank.
struct StreamPlan {
  uint32_t source_rank = 0;
  uint32_t target_rank = 0;
  uint32_t l0 = 0;  // layers [l0, l1), global
  uint32_t l1 = 0;
  uint32_t source_block_tokens = 0;
  uint32_t target_block_tokens = 0;
  std::vector<StreamGroup> groups;

  uint32_t span_tokens() const {
    return std::max(source_block_tokens, target_block_tokens);
  }
  // KV bytes of one token in one layer.
  uint64_t token_layer_bytes() const;
};

// How far the two sides lie apart: block by block alike, cut otherwise (ranks,
// heads, layers, block sizes), or with another inner order.
enum class PlanKind { kSame, kReshard, kConvert };
PlanKind PlanKindOf(absl::Span<const StreamPlan> streams);

// KV bytes of `tokens` tokens over all streams, padding left out.
uint64_t PayloadBytes(absl::Span<const StreamPlan> streams, uint64_t tokens);

// Tokens [t, t + tokens) that lie in one block on both sides.
struct TokenRun {
  uint32_t t = 0;
  uint32_t tokens = 0;
  uint32_t source_index = 0;  // block = source blocks[source_index]
  uint32_t source_offset = 0;
  uint32_t target_index = 0;
  uint32_t target_offset = 0;

  bool operator==(const TokenRun&) const = default;
};

// Pure: the streams of a pair of replicas, ordered by (source, target rank).
// Both manifests are valid and compatible. kInvalidArgument for a replica out
// of range.
absl::StatusOr<std::vector<StreamPlan>> PlanStreams(
    const LayoutManifest& source, uint32_t source_replica,
    const LayoutManifest& target, uint32_t target_replica);

// [t0, t1) cut at every multiple of either block size.
std::vector<TokenRun> CutTokens(uint32_t t0, uint32_t t1,
                                uint32_t source_block_tokens,
                                uint32_t target_block_tokens);

// `whole`, final at once, cut into what is announced rectangle by rectangle: of
// `max_bytes` over all streams at most, or one span of one layer.
// `span_tokens` is the streams', `token_layer_bytes` the sum of theirs. Cuts
// are at multiples of a span.
// Digesting and announcing 8 MiB keeps the thread busy for a few milliseconds.
inline constexpr uint64_t kMaxRectangleBytes = 8 << 20;
std::vector<Rectangle> CutRectangle(const Rectangle& whole,
                                    uint32_t span_tokens,
                                    uint64_t token_layer_bytes,
                                    uint64_t max_bytes = kMaxRectangleBytes);

// Part of a block table: ids[i] is the block at position first_index + i.
struct BlockSlice {
  absl::Span<const uint32_t> ids;
  uint32_t first_index = 0;

  uint32_t operator[](uint32_t index) const { return ids[index - first_index]; }
};

// A contiguous copy: `num_runs` unmerged runs from `first_run` on, adjacent on
// both sides. With differing inner orders a copy is one run and size_bytes is
// of the source side.
struct Copy {
  uint32_t group_index = 0;
  uint64_t source_offset = 0;  // in the regions
  uint64_t target_offset = 0;
  uint64_t size_bytes = 0;
  uint32_t token_run = 0;  // all runs are of one
  uint32_t first_run = 0;
  uint32_t num_runs = 1;
};

// The runs of one rectangle of a stream, in wire order: by (token run, group,
// layer, comp, head). A run is computed from its index, so that a message
// anywhere in a rectangle can be placed. Borrows the stream.
class RectanglePlan {
 public:
  struct Run {
    uint32_t group_index = 0;
    RunShape shape;
    TokenRun tokens;
    uint64_t wire_offset = 0;
    uint64_t wire_bytes = 0;
  };

  // Layers are cut to the stream's.
  RectanglePlan(const StreamPlan& stream, const Rectangle& rectangle);

  const StreamPlan& stream() const { return *stream_; }
  const Rectangle& rectangle() const { return rectangle_; }
  uint32_t num_runs() const {
    return static_cast<uint32_t>(token_runs_.size()) * runs_per_token_run_;
  }
  uint64_t wire_bytes() const { return wire_starts_.back(); }
  Run run(uint32_t index) const;
  // The run that holds wire byte `offset` < wire_bytes().
  uint32_t FindRun(uint64_t offset) const;

  // Spans of span_tokens() that digests are kept for, cut at its multiples.
  uint32_t num_spans() const;
  uint32_t SpanOf(const Run& run) const { return SpanOfToken(run.tokens.t); }
  uint32_t SpanOfToken(uint32_t token) const;

  // Offsets in the regions.
  uint64_t SourceOffset(const Run& run, const BlockSlice& source_blocks) const;
  uint64_t TargetOffset(const Run& run, const BlockSlice& target_blocks) const;

  // Merged copies: one a block and group where both sides lie alike. With
  // equal block sizes a last block is copied whole when that lets its runs
  // merge.
  std::vector<Copy> Merge(const BlockSlice& source_blocks,
                          const BlockSlice& target_blocks);

  // What a copy of Merge() consists of. `runs` is empty where the inner orders
  // differ or a token is not whole words: such a copy goes run by run.
  struct Piece {
    absl::Span<const PieceRun> runs;
    uint32_t token = 0;  // first token of every run
    uint32_t span = 0;
  };
  Piece PieceOf(const Copy& copy) const;

 private:
  // The copies of every token run that lies alike in its blocks: offsets count
  // from the start of the group's blocks' memory, runs from the token run's.
  struct Pattern {
    uint32_t source_offset = 0;  // tokens
    uint32_t target_offset = 0;
    uint32_t tokens = 0;
    std::vector<Copy> copies;
    std::vector<PieceRun> runs;  // of every run, in order
  };

  void FindPatterns();
  PieceRun PieceRunOf(const Run& run, uint64_t size_bytes) const;
  void Fill(Pattern& pattern, uint32_t first_run) const;
  uint64_t RunWireBytes(const StreamGroup& group, uint32_t tokens) const;
  uint64_t RunsOfGroup(const StreamGroup& group) const;

  const StreamPlan* stream_;
  Rectangle rectangle_;
  uint32_t span_shift_;  // spans are powers of two
  std::vector<TokenRun> token_runs_;
  std::vector<uint64_t> wire_starts_;  // of each token run, and the end
  uint32_t runs_per_token_run_ = 0;
  std::vector<Pattern> patterns_;
  std::vector<uint32_t> pattern_of_;  // each token run
};

// One side of a transfer as PlanTransfer() takes it.
struct PlanSide {
  const LayoutManifest* manifest = nullptr;
  uint32_t replica = 0;
  absl::Span<const uint32_t> blocks;  // from position 0
};

struct PlannedStream {
  StreamPlan stream;
  std::vector<Copy> copies;
};

// Pure; both sides compute the same value: the copies of a whole transfer.
// kInvalidArgument, with values: see CheckBlockList(); a replica out of range.
absl::StatusOr<std::vector<PlannedStream>> PlanTransfer(const PlanSide& source,
                                                        const PlanSide& target,
                                                        uint32_t skip_tokens,
                                                        uint32_t num_tokens);

// One block list of one side, needed for tokens [skip_tokens, num_tokens):
// kInvalidArgument for a wrong length, num_tokens of 0 or above 2^24, a needed
// entry of 0 or >= num_blocks; for a target also a block twice and a
// skip_tokens that is not a multiple of its block_tokens or not below
// num_tokens.
struct BlockListArgs {
  const LayoutManifest* manifest = nullptr;
  uint32_t replica = 0;
  absl::Span<const uint32_t> blocks;
  uint32_t skip_tokens = 0;
  uint32_t num_tokens = 0;
  bool is_target = false;
};
absl::Status CheckBlockList(const BlockListArgs& args);

// Blocks that every group of a replica has (with the null block); the replica
// is in range.
uint64_t NumBlocks(const LayoutManifest& manifest, uint32_t replica);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_PLAN_H_
