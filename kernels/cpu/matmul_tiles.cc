#include "kernels/cpu/matmul_tiles.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "base/check.h"
#include "kernels/aligned_bytes.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/wait_word.h"

namespace sluice::kernels {
namespace {

// Activations of a row range of BlockTiles: every CPU that has them has 2 MiB
// of L2.
constexpr int64_t kBlockRangeBytes = 1 << 20;

// Panels that every row of a range meets before the next ones are read; more
// of them share each broadcast of an activation when rows are few.
constexpr int64_t kFewRows = 2;

// Panels whose tiles share each broadcast of an activation in expanded form.
constexpr int64_t kExpandedPanels = 2;

// Shares of whole groups of packed_y differ by one group at most; with this
// many groups a thread that is little, with fewer y is packed afterwards.
constexpr int64_t kEnoughUnits = 8;

// A unit of as many blocks as this holds is done at once by BlockTiles.
constexpr int64_t kUnitFloats = 32 << 10;

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

// One product of a call, and how it is walked.
struct Walk {
  const MatmulArgs& args;
  const MatmulPart& part;
  const TileSet& set;
  const PackFns& pack;
  BlockTiles blocks;  // run is null when there are none, or too few rows
  int64_t panel_bytes = 0;
  int64_t row_range_bytes = 0;
  int64_t unit_panels = 1;  // a thread's share is whole units
  bool pack_units = false;  // packed_y is filled unit by unit
  int64_t share_end = 0;    // where this thread's panels end
  // Where part.y begins: not at 0 when it is a unit's own.
  int64_t first_row = 0;
  int64_t first_column = 0;

  float* At(int64_t row, int64_t column) const {
    return part.y.Row(row - first_row) + column - first_column;
  }
};

// Rows `row` .. of a tile moved out of its buffer.
struct Store {
  float* tile = nullptr;
  int64_t tile_stride = 0;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t panel = 0;
  int64_t panels = 1;
  int64_t up_at = kPanelColumns;  // from a gate column to its up column
};

// + bias, + y.
void StoreTile(const Walk& walk, const Store& store) {
  const MatmulPart& part = walk.part;
  const int64_t column = store.panel * kPanelColumns;
  const int64_t columns =
      std::min(store.panels * kPanelColumns, part.w.n - column);
  const bool accumulate = walk.args.accumulate;
  for (int64_t r = 0; r < store.rows; ++r) {
    const float* in = store.tile + r * store.tile_stride;
    float* y = walk.At(store.row + r, column);
    if (part.bias == nullptr && !accumulate) {
      // The library's copy reads lanes as wide as the tile wrote them.
      std::memcpy(y, in, static_cast<size_t>(columns) * sizeof(float));
      continue;
    }
    if (part.bias == nullptr) {
      for (int64_t c = 0; c < columns; ++c) y[c] = y[c] + in[c];
      continue;
    }
    for (int64_t c = 0; c < columns; ++c) {
      const float value = in[c] + part.bias[column + c];
      y[c] = accumulate ? y[c] + value : value;
    }
  }
}

// silu(gate) * up of pairs of panels.
void StoreSiluMul(const Walk& walk, const Store& store) {
  const float* bias = walk.part.bias;
  for (int64_t r = 0; r < store.rows; ++r) {
    float* y = walk.At(store.row + r, store.panel * kPanelColumns / 2);
    for (int64_t pair = 0; pair * 2 < store.panels; ++pair) {
      float* gate =
          store.tile + r * store.tile_stride + pair * 2 * kPanelColumns;
      float* up = gate + store.up_at;
      if (bias != nullptr) {
        const float* b = bias + (store.panel + 2 * pair) * kPanelColumns;
        for (int64_t c = 0; c < kPanelColumns; ++c) {
          gate[c] = gate[c] + b[c];
          up[c] = up[c] + b[kPanelColumns + c];
        }
      }
      walk.pack.math->silu_mul(gate, up, kPanelColumns,
                               y + pair * kPanelColumns);
    }
  }
}

void StoreRows(const Walk& walk, const Store& store) {
  if (walk.args.silu_mul) return StoreSiluMul(walk, store);
  StoreTile(walk, store);
}

// Where StoreRows() will write: lines that are not in a cache yet would hold up
// the tiles behind them.
void PrefetchStored(const Walk& walk, const Store& store) {
  const int64_t columns =
      store.panels * kPanelColumns / (walk.args.silu_mul ? 2 : 1);
  const int64_t column =
      store.panel * kPanelColumns / (walk.args.silu_mul ? 2 : 1);
  for (int64_t r = 0; r < store.rows; ++r) {
    for (int64_t c = 0; c < columns; c += kPanelColumns) {
      __builtin_prefetch(walk.At(store.row + r, column + c), 1);
    }
  }
}

inline ActivationBlock From(ActivationBlock block, int64_t row) {
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

// `rows` rows of `block` from its row `row`, by `panels` panels from `panel`.
void RunRows(const Walk& walk, int64_t block, WorkRange rows,
             WorkRange panels) {
  alignas(64) float out[kMaxTileRows * kMaxTilePanels * kPanelColumns];
  const int64_t height = rows.end - rows.begin;
  const ActivationBlock base = BlockAt(walk.args.a, block);
  const TileFn* fns = walk.set.tile[height - 1];
  const bool silu_mul = walk.args.silu_mul;
  TileArgs tile = {.panel_bytes = walk.panel_bytes,
                   .groups = NumGroups(walk.part.w.k),
                   .rows = From(base, rows.begin),
                   .out = out};
  for (int64_t p = panels.begin; p < panels.end;) {
    int i = 2;
    while (fns[i] == nullptr || (1 << i) > panels.end - p) --i;
    tile.panel = walk.part.w.bytes + p * walk.panel_bytes;
    tile.out = out;
    fns[i](tile);
    Store store = {.tile = out,
                   .tile_stride = kPanelColumns << i,
                   .row = block * kBlockRows + rows.begin,
                   .rows = height,
                   .panel = p,
                   .panels = 1 << i};
    if (!silu_mul) {
      StoreTile(walk, store);
    } else {
      if (i == 0) {  // the up panel apart
        store.up_at = height * kPanelColumns;
        store.panels = 2;
        tile.panel += walk.panel_bytes;
        tile.out = out + store.up_at;
        fns[i](tile);
      }
      StoreSiluMul(walk, store);
    }
    p += store.panels;
  }
}

// At most kMaxBlocks blocks by pairs of panels.
void RunWholeBlocks(const Walk& walk, WorkRange blocks, WorkRange panels) {
  constexpr int64_t kBlockFloats = kBlockRows * 2 * kPanelColumns;
  alignas(64) float out[kMaxBlocks * kBlockFloats];
  ActivationBlock rows[kMaxBlocks];
  const int64_t count = blocks.end - blocks.begin;
  for (int64_t i = 0; i < count; ++i) {
    rows[i] = BlockAt(walk.args.a, blocks.begin + i);
  }
  for (int64_t p = panels.begin; p < panels.end; p += 2) {
    const int64_t after = std::min(walk.share_end, p + 4) - (p + 2);
    const BlocksArgs args = {
        .panel = walk.part.w.bytes + p * walk.panel_bytes,
        .panel_bytes = walk.panel_bytes,
        .panels = std::min<int64_t>(2, panels.end - p),
        .groups = NumGroups(walk.part.w.k),
        .blocks = rows,
        .num_blocks = count,
        .out = out,
        .ahead_bytes = std::max<int64_t>(0, after) * walk.panel_bytes};
    walk.blocks.run(args);
    for (int64_t i = 0; i < count; ++i) {
      const Store store = {.tile = out + i * kBlockFloats,
                           .tile_stride = 2 * kPanelColumns,
                           .row = (blocks.begin + i) * kBlockRows,
                           .rows = rows[i].height,
                           .panel = p,
                           .panels = args.panels};
      StoreRows(walk, store);
    }
  }
}

// Null when the blocks have too few rows to pay for it.
const ExpandedTiles* ExpandedFor(const Walk& walk, WorkRange blocks) {
  const ExpandedTiles* expanded = walk.set.expanded;
  const int64_t rows = std::min(walk.args.a.rows, blocks.end * kBlockRows) -
                       blocks.begin * kBlockRows;
  return expanded != nullptr && rows >= expanded->min_rows ? expanded : nullptr;
}

ActivationBlock AtGroup(const ActivationBlock& block, int64_t group) {
  // Groups of a block lie `height` rows apart.
  return From(block, group * block.height);
}

// What is expanded next, read from memory while the tiles compute: a part
// before each of `times` tiles.
class ReadAhead {
 public:
  ReadAhead(const uint8_t* at, int64_t panel_bytes, int64_t bytes,
            int64_t times)
      : at_(at),
        panel_bytes_(panel_bytes),
        bytes_(bytes),
        part_(std::max<int64_t>(256, (bytes / times + 63) / 64 * 64)) {}

  void Some() {
    const int64_t end = std::min(done_ + part_, bytes_);
    for (; done_ < end; done_ += 64) {
      __builtin_prefetch(at_ + done_, 0, 2);
      __builtin_prefetch(at_ + panel_bytes_ + done_, 0, 2);
    }
  }

 private:
  const uint8_t* const at_;
  const int64_t panel_bytes_;
  const int64_t bytes_;
  const int64_t part_;
  int64_t done_ = 0;
};

// A chunk of k, expanded, by the rows of one block.
struct Chunk {
  const ExpandedTiles& expanded;
  const uint8_t* bytes = nullptr;
  int64_t groups = 0;
  int64_t panels = 1;
};
void RunChunk(const Chunk& chunk, const ActivationBlock& block, float* sums,
              ReadAhead& ahead) {
  const TileSet& set = chunk.expanded.tiles;
  // Nearly equal heights: a last tile of one row would waste the loads.
  const int height = static_cast<int>(block.height);
  const int tiles = (height + set.max_rows - 1) / set.max_rows;
  TileArgs tile = {.panel = chunk.bytes,
                   .panel_bytes = chunk.groups * chunk.expanded.group_bytes,
                   .groups = chunk.groups,
                   .rows = {},
                   .out = nullptr};
  for (int t = 0; t < tiles; ++t) {
    const int begin = height * t / tiles;
    const int end = height * (t + 1) / tiles;
    tile.rows = From(block, begin);
    tile.out = sums + begin * chunk.panels * kPanelColumns;
    ahead.Some();
    set.tile[end - begin - 1][chunk.panels - 1](tile);
  }
}

// Of this thread; kept, as a step wants the same again, and steps of a few
// dozen rows should not allocate as they grow.
uint8_t* ExpandedMemory(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 64 << 10);
  static thread_local AlignedBytes memory;
  if (memory.size() < bytes) memory = AlignedBytes(bytes);
  return memory.data();
}

// All rows of the blocks by one or two panels.
void RunExpanded(const Walk& walk, const ExpandedTiles& expanded,
                 WorkRange blocks, WorkRange panels) {
  const Activations& a = walk.args.a;
  const int64_t first_row = blocks.begin * kBlockRows;
  const int64_t rows = std::min(a.rows, blocks.end * kBlockRows) - first_row;
  const int64_t width = (panels.end - panels.begin) * kPanelColumns;
  const int64_t sums_bytes = rows * width * static_cast<int64_t>(sizeof(float));
  const int64_t groups = NumGroups(walk.part.w.k);
  const int64_t packed_bytes = walk.panel_bytes / groups;
  uint8_t* memory =
      ExpandedMemory(sums_bytes + kExpandedPanels * expanded.chunk_groups *
                                      expanded.group_bytes);
  float* sums = reinterpret_cast<float*>(memory);
  std::fill_n(sums, rows * width, 0.0f);
  Chunk chunk = {.expanded = expanded,
                 .bytes = memory + sums_bytes,
                 .panels = panels.end - panels.begin};
  const uint8_t* packed = walk.part.w.bytes + panels.begin * walk.panel_bytes;
  for (int64_t g = 0; g < groups; g += chunk.groups) {
    chunk.groups = std::min(expanded.chunk_groups, groups - g);
    for (int64_t p = 0; p < chunk.panels; ++p) {
      expanded.expand(
          packed + p * walk.panel_bytes + g * packed_bytes, chunk.groups,
          memory + sums_bytes + p * chunk.groups * expanded.group_bytes);
    }
    // After a panel's last chunk comes the first one of those behind.
    const int64_t next = g + chunk.groups;
    ReadAhead ahead(
        packed + next * packed_bytes +
            (next < groups ? 0 : (chunk.panels - 1) * walk.panel_bytes),
        walk.panel_bytes, chunk.groups * packed_bytes,
        (rows + expanded.tiles.max_rows - 1) / expanded.tiles.max_rows);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const ActivationBlock block = BlockAt(a, b);
      const Store store = {.tile = sums + (b * kBlockRows - first_row) * width,
                           .tile_stride = width,
                           .row = b * kBlockRows,
                           .rows = block.height,
                           .panel = panels.begin,
                           .panels = chunk.panels};
      if (next == groups) PrefetchStored(walk, store);
      RunChunk(chunk, AtGroup(block, g), store.tile, ahead);
      if (next == groups) StoreRows(walk, store);
    }
  }
}

// All rows of blocks [blocks.begin, blocks.end) by all panels of the range.
void RunBlocks(const Walk& walk, WorkRange blocks, WorkRange panels) {
  const int64_t rows = walk.args.a.rows;
  if (walk.blocks.run != nullptr && blocks.begin < blocks.end) {
    WorkRange whole = blocks;
    const int64_t last_rows = rows - (blocks.end - 1) * kBlockRows;
    if (last_rows < walk.blocks.least_last_rows) --whole.end;
    if (whole.begin < whole.end) RunWholeBlocks(walk, whole, panels);
    blocks.begin = whole.end;
  }
  const ExpandedTiles* expanded = ExpandedFor(walk, blocks);
  const int64_t step = expanded != nullptr ? kExpandedPanels
                       : rows <= kFewRows  ? kMaxTilePanels
                                           : kMaxTilePanels / 2;
  for (int64_t p = panels.begin; p < panels.end; p += step) {
    const WorkRange few = {p, std::min(panels.end, p + step)};
    if (expanded != nullptr) {
      RunExpanded(walk, *expanded, blocks, few);
      continue;
    }
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const int64_t height = std::min(kBlockRows, rows - b * kBlockRows);
      // Nearly equal heights: a last tile of one row would waste the loads.
      const int tiles = static_cast<int>((height + walk.set.max_rows - 1) /
                                         walk.set.max_rows);
      for (int t = 0; t < tiles; ++t) {
        RunRows(walk, b, PartOf(height, 1, t, tiles), few);
      }
    }
  }
}

// A unit of some blocks in f32, and packed from there.
void RunUnit(const Walk& walk, WorkRange blocks, WorkRange panels,
             float* buffer) {
  const Activations& out = *walk.args.packed_y;
  const int64_t panel_columns = kPanelColumns / (walk.args.silu_mul ? 2 : 1);
  const WorkRange columns = {
      panels.begin * panel_columns,
      std::min(panels.end * panel_columns, walk.part.y.cols)};
  const int64_t width = columns.end - columns.begin;
  MatmulPart unit = walk.part;
  unit.y = {.data = buffer,
            .rows = std::min(blocks.end * kBlockRows, out.rows) -
                    blocks.begin * kBlockRows,
            .cols = width,
            .stride = width};
  RunBlocks({.args = walk.args,
             .part = unit,
             .set = walk.set,
             .pack = walk.pack,
             .blocks = walk.blocks,
             .panel_bytes = walk.panel_bytes,
             .row_range_bytes = walk.row_range_bytes,
             .share_end = walk.share_end,
             .first_row = blocks.begin * kBlockRows,
             .first_column = columns.begin},
            blocks, panels);
  for (int64_t b = blocks.begin; b < blocks.end; ++b) {
    MatrixView<float> y = unit.y;
    y.data += (b - blocks.begin) * kBlockRows * width;
    y.rows = std::min(kBlockRows, out.rows - b * kBlockRows);
    PackColumns({.y = y,
                 .out = out,
                 .block = b,
                 .begin = columns.begin,
                 .end = columns.end},
                walk.pack);
  }
}

// Unit after unit, of `step` blocks.
void RunEachUnit(const Walk& walk, WorkRange blocks, WorkRange panels,
                 int64_t step, float* buffer) {
  for (int64_t p = panels.begin; p < panels.end; p += walk.unit_panels) {
    const WorkRange unit = {p, std::min(panels.end, p + walk.unit_panels)};
    for (int64_t b = blocks.begin; b < blocks.end; b += step) {
      RunUnit(walk, {b, std::min(blocks.end, b + step)}, unit, buffer);
    }
  }
}

void RunUnitsOfBlocks(const Walk& walk, WorkRange blocks, WorkRange panels) {
  alignas(64) float buffer[kUnitFloats];
  const int64_t width =
      walk.unit_panels * kPanelColumns / (walk.args.silu_mul ? 2 : 1);
  const int64_t step = kUnitFloats / (kBlockRows * width);
  RunEachUnit(walk, blocks, panels, std::min(step, kMaxBlocks), buffer);
}

// The same through y's own memory, so that all blocks meet an expanded panel.
void RunUnitOfMany(const Walk& walk, WorkRange blocks, WorkRange panels) {
  const MatrixView<float>& y = walk.part.y;
  const int64_t panel_columns = kPanelColumns / (walk.args.silu_mul ? 2 : 1);
  const int64_t begin = panels.begin * panel_columns;
  const int64_t end = std::min(panels.end * panel_columns, y.cols);
  RunBlocks(walk, blocks, panels);
  for (int64_t b = blocks.begin; b < blocks.end; ++b) {
    const int64_t row = b * kBlockRows;
    PackColumns({.y = {.data = y.Row(row) + begin,
                       .rows = std::min(kBlockRows, y.rows - row),
                       .cols = end - begin,
                       .stride = y.stride},
                 .out = *walk.args.packed_y,
                 .block = b,
                 .begin = begin,
                 .end = end},
                walk.pack);
  }
}

void RunUnits(const Walk& walk, WorkRange blocks, WorkRange panels) {
  if (!walk.pack_units) return RunBlocks(walk, blocks, panels);
  if (walk.blocks.run != nullptr) {
    return RunUnitsOfBlocks(walk, blocks, panels);
  }
  if (ExpandedFor(walk, blocks) != nullptr) {
    for (int64_t p = panels.begin; p < panels.end; p += walk.unit_panels) {
      RunUnitOfMany(walk, blocks,
                    {p, std::min(panels.end, p + walk.unit_panels)});
    }
    return;
  }
  alignas(64) float buffer[kBlockRows * kSuperElements];
  RunEachUnit(walk, blocks, panels, 1, buffer);
}

// Blocks whose rows stay in L2 while panels stream past them.
int64_t RangeBlocks(const Walk& walk) {
  const Activations& a = walk.args.a;
  if (walk.blocks.run == nullptr) {
    const int64_t bytes = ActivationBytes(a.kind, kBlockRows, a.k);
    return std::max<int64_t>(
        1, walk.row_range_bytes / std::max<int64_t>(1, bytes));
  }
  const int64_t bytes = NumGroups(a.k) * kBlockRows * walk.blocks.group_bytes;
  return std::clamp<int64_t>(kBlockRangeBytes / std::max<int64_t>(1, bytes), 1,
                             kMaxBlocks);
}

// A thread's share of one product.
void RunShare(const Walk& walk, int thread, int threads) {
  const Activations& a = walk.args.a;
  const int64_t blocks = (a.rows + kBlockRows - 1) / kBlockRows;
  const int64_t panels = NumPanels(walk.part.w.n);
  const int64_t units = (panels + walk.unit_panels - 1) / walk.unit_panels;
  const Split split = SplitThreads(units, blocks, threads);
  const int panel_part = thread % split.panel_parts;
  const int row_part = thread / split.panel_parts;
  if (row_part >= split.row_parts) return;
  const int64_t range_blocks = RangeBlocks(walk);
  const WorkRange mine =
      PartOf(panels, walk.unit_panels, panel_part, split.panel_parts);
  const WorkRange rows = PartOf(blocks, 1, row_part, split.row_parts);
  Walk share = walk;
  share.share_end = mine.end;
  for (int64_t b = rows.begin; b < rows.end; b += range_blocks) {
    RunUnits(share, {b, std::min(rows.end, b + range_blocks)}, mine);
  }
}

// The pieces of a RowPacker inside a Run(): each thread takes what is left and
// then waits for what the others still have in hand.
class SharedPacking {
 public:
  explicit SharedPacking(const RowPacker* packer)
      : packer_(packer),
        left_(packer == nullptr ? 0 : static_cast<uint32_t>(packer->pieces())) {
  }

  void Join() {
    if (packer_ == nullptr) return;
    while (true) {
      const int64_t piece = next_.fetch_add(1, std::memory_order_relaxed);
      if (piece >= packer_->pieces()) break;
      packer_->Pack(piece);
      left_.CountDown();
    }
    left_.WaitUntilZero();
  }

 private:
  const RowPacker* const packer_;
  std::atomic<int64_t> next_{0};
  WaitWord left_;
};

Walk WalkOf(const MatmulArgs& args, const MatmulPart& part,
            const MatmulTiles& tiles, int threads) {
  const PackedMatrix& w = part.w;
  SLUICE_CHECK(args.a.kind == ActivationKindFor(w.format));
  SLUICE_CHECK(args.a.k == w.k && part.y.rows == args.a.rows);
  SLUICE_CHECK(part.y.cols * (args.silu_mul ? 2 : 1) == w.n);
  int64_t unit = args.silu_mul ? 2 : 1;
  bool pack_units = false;
  if (args.packed_y != nullptr) {
    const Activations& out = *args.packed_y;
    SLUICE_CHECK(out.rows == args.a.rows && out.k == part.y.cols);
    const int64_t units = out.k / ScaledElements(out.kind);
    pack_units = units % threads == 0 || units >= kEnoughUnits * threads;
    if (pack_units) unit *= ScaledElements(out.kind) / kPanelColumns;
  }
  BlockTiles blocks;
  if (tiles.blocks != nullptr) {
    blocks = tiles.blocks[static_cast<int>(w.format)];
    if (args.a.rows < blocks.least_rows) blocks = {};
  }
  return {.args = args,
          .part = part,
          .set = *tiles.sets[static_cast<int>(w.format)],
          .pack = *tiles.pack,
          .blocks = blocks,
          .panel_bytes = NumGroups(w.k) * PackedGroupBytes(w.format),
          .row_range_bytes = tiles.row_range_bytes,
          .unit_panels = unit,
          .pack_units = pack_units};
}

}  // namespace

void RunMatmul(const OpContext& context, const MatmulArgs& args,
               const MatmulTiles& tiles) {
  SLUICE_CHECK(!(args.silu_mul || args.packed_y != nullptr) ||
               (!args.accumulate && args.more.empty()));
  SLUICE_CHECK(!args.silu_mul || args.w.n % (2 * kPanelColumns) == 0);
  const int threads = context.pool->num_threads();
  const MatmulPart first = {.w = args.w, .bias = args.bias, .y = args.y};
  const Walk walk = WalkOf(args, first, tiles, threads);
  for (const MatmulPart& part : args.more) WalkOf(args, part, tiles, threads);
  if (args.a.rows == 0) return;
  std::optional<RowPacker> packer;
  if (args.pack != nullptr) {
    SLUICE_CHECK(args.pack->out.bytes == args.a.bytes);
    packer.emplace(*args.pack, *tiles.pack);
    if (packer->small()) {
      packer->PackAll();
      packer.reset();
    }
  }
  SharedPacking packing(packer.has_value() ? &*packer : nullptr);
  context.pool->Run([&](int thread) {
    packing.Join();
    RunShare(walk, thread, threads);
    for (const MatmulPart& part : args.more) {
      RunShare(WalkOf(args, part, tiles, threads), thread, threads);
    }
  });
  if (args.packed_y != nullptr && !walk.pack_units) {
    RunPackActivations(
        context,
        {.x = {args.y.data, args.y.rows, args.y.cols, args.y.stride},
         .out = *args.packed_y},
        *tiles.pack);
  }
}

}  // namespace sluice::kernels
