#include "kernels/cpu/matmul_tiles.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/thread_pool.h"

namespace sluice::kernels {
namespace {

// Activations of one row range stay in half of a common L2 while the
// panels of a thread stream past them.
constexpr int64_t kRowRangeBytes = 512 << 10;

// Panels that every row of a range meets before the next ones are read; more
// of them share each broadcast of an activation when rows are few.
constexpr int64_t kFewRows = 2;

struct Split {
  int panel_parts = 1;
  int row_parts = 1;
};

// The grid of threads with the least work for the busiest one.
Split SplitThreads(int64_t panels, int64_t blocks, int threads) {
  Split best;
  int64_t best_work = panels * blocks;
  for (int p = 1; p <= threads; ++p) {
    const int r = threads / p;
    const int64_t work = ((panels + p - 1) / p) * ((blocks + r - 1) / r);
    // On equal work prefer panels: rows are then read by all, weights once.
    if (work < best_work || (work == best_work && p > best.panel_parts)) {
      best_work = work;
      best = {.panel_parts = p, .row_parts = r};
    }
  }
  return best;
}

// Rows `row` .. of a tile moved out of its buffer: + bias, + y.
struct Store {
  const float* tile = nullptr;
  int64_t tile_stride = 0;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t column = 0;
};

void StoreTile(const MatmulArgs& args, const Store& store) {
  const int64_t columns = std::min(store.tile_stride, args.w.n - store.column);
  for (int64_t r = 0; r < store.rows; ++r) {
    const float* in = store.tile + r * store.tile_stride;
    float* y = args.y.Row(store.row + r) + store.column;
    if (args.bias == nullptr && !args.accumulate) {
      for (int64_t c = 0; c < columns; ++c) y[c] = in[c];
      continue;
    }
    for (int64_t c = 0; c < columns; ++c) {
      float value = in[c];
      if (args.bias != nullptr) value = value + args.bias[store.column + c];
      if (args.accumulate) value = y[c] + value;
      y[c] = value;
    }
  }
}

ActivationBlock From(ActivationBlock block, int64_t row) {
  if (block.values != nullptr) {
    block.values += row * kGroupElements;
    if (block.pairs != nullptr) block.pairs += row;
    return block;
  }
  block.codes += row * kGroupElements;
  block.scale += row;
  if (block.half_sums != nullptr) {
    block.half_sums += row;
    block.pair_sums += row;
    return block;
  }
  block.scaled_sum += row;
  block.minus_128_sum += row;
  return block;
}

struct Walk {
  const MatmulArgs& args;
  const TileSet& set;
  int64_t panel_bytes = 0;
};

// `rows` rows of `block` from its row `row`, by `panels` panels from `panel`.
void RunRows(const Walk& walk, int64_t block, WorkRange rows,
             WorkRange panels) {
  alignas(64) float out[kMaxTileRows * kMaxTilePanels * kPanelColumns];
  const int64_t height = rows.end - rows.begin;
  int64_t p = panels.begin;
  while (p < panels.end) {
    const TileFn* fns = walk.set.tile[height - 1];
    int i = 2;
    while (fns[i] == nullptr || (1 << i) > panels.end - p) --i;
    const ActivationBlock base = BlockAt(walk.args.a, block);
    fns[i]({.panel = walk.args.w.bytes + p * walk.panel_bytes,
            .panel_bytes = walk.panel_bytes,
            .groups = NumGroups(walk.args.w.k),
            .rows = From(base, rows.begin),
            .out = out});
    StoreTile(walk.args, {.tile = out,
                          .tile_stride = kPanelColumns << i,
                          .row = block * kBlockRows + rows.begin,
                          .rows = height,
                          .column = p * kPanelColumns});
    p += 1 << i;
  }
}

// All rows of blocks [blocks.begin, blocks.end) by all panels of the range.
void RunBlocks(const Walk& walk, WorkRange blocks, WorkRange panels) {
  const int64_t step =
      walk.args.a.rows <= kFewRows ? kMaxTilePanels : kMaxTilePanels / 2;
  for (int64_t p = panels.begin; p < panels.end; p += step) {
    const WorkRange few = {p, std::min(panels.end, p + step)};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const int64_t height =
          std::min(kBlockRows, walk.args.a.rows - b * kBlockRows);
      // Nearly equal heights: a last tile of one row would waste the loads.
      const int tiles = static_cast<int>((height + walk.set.max_rows - 1) /
                                         walk.set.max_rows);
      for (int t = 0; t < tiles; ++t) {
        RunRows(walk, b, PartOf(height, 1, t, tiles), few);
      }
    }
  }
}

}  // namespace

void RunMatmul(const OpContext& context, const MatmulArgs& args,
               const MatmulTiles& tiles) {
  SLUICE_CHECK(args.a.kind == ActivationKindFor(args.w.format));
  SLUICE_CHECK(args.a.k == args.w.k && args.y.rows == args.a.rows &&
               args.y.cols == args.w.n);
  if (args.a.rows == 0 || args.w.n == 0) return;
  const int64_t panels = NumPanels(args.w.n);
  const int64_t blocks = (args.a.rows + kBlockRows - 1) / kBlockRows;
  const Walk walk = {
      .args = args,
      .set = *tiles.sets[static_cast<int>(args.w.format)],
      .panel_bytes = NumGroups(args.w.k) * PackedGroupBytes(args.w.format)};
  const int64_t block_bytes =
      ActivationBytes(args.a.kind, kBlockRows, args.a.k);
  const int64_t range_blocks =
      std::max<int64_t>(1, kRowRangeBytes / std::max<int64_t>(1, block_bytes));
  const Split split = SplitThreads(panels, blocks, context.pool->num_threads());
  context.pool->Run([&](int thread) {
    const int panel_part = thread % split.panel_parts;
    const int row_part = thread / split.panel_parts;
    if (row_part >= split.row_parts) return;
    const WorkRange mine = PartOf(panels, 1, panel_part, split.panel_parts);
    const WorkRange rows = PartOf(blocks, 1, row_part, split.row_parts);
    for (int64_t b = rows.begin; b < rows.end; b += range_blocks) {
      RunBlocks(walk, {b, std::min(rows.end, b + range_blocks)}, mine);
    }
  });
}

}  // namespace sluice::kernels
