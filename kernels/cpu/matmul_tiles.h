#ifndef KERNELS_CPU_MATMUL_TILES_H_
#define KERNELS_CPU_MATMUL_TILES_H_

#include <cstdint>

#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/matmul.h"

namespace sluice::kernels {

// A tile is kRows rows of one block by kPanels panels, over all of k. The
// functions differ by format and instruction set; the loop over tiles, the
// split over threads and the epilogue are shared and know neither.
struct TileArgs {
  const uint8_t* panel = nullptr;  // the first panel
  int64_t panel_bytes = 0;         // from one panel to the next
  int64_t groups = 0;
  ActivationBlock rows;  // starts at the tile's first row
  float* out = nullptr;  // [kRows][kPanels * 16], 64-byte aligned
};
using TileFn = void (*)(const TileArgs&);

inline constexpr int kMaxTileRows = 8;
inline constexpr int kMaxTilePanels = 4;

// Row blocks by one or two panels, over all of k: for registers that hold a
// whole block, and weights that are worth expanding once for many of them.
struct BlocksArgs {
  const uint8_t* panel = nullptr;
  int64_t panel_bytes = 0;
  int64_t panels = 1;
  int64_t groups = 0;
  const ActivationBlock* blocks = nullptr;  // only the last may be short
  int64_t num_blocks = 0;                   // 1 .. kMaxBlocks
  float* out = nullptr;                     // [num_blocks * 16][2][16], aligned
  int64_t ahead_bytes = 0;  // behind these panels, which are read next
};
inline constexpr int64_t kMaxBlocks = 16;

// `run` is null where a level has no such thing. Fewer rows than least_rows go
// by tiles, and so does a last block of fewer than least_last_rows behind
// others.
struct BlockTiles {
  void (*run)(const BlocksArgs&) = nullptr;
  int64_t least_rows = 0;
  int64_t least_last_rows = 0;
  int64_t group_bytes = 0;  // that `run` reads of a row's 32 values
};

struct ExpandedTiles;

// tile[r - 1][i]: r rows by 1 << i panels. A height is present when its
// one-panel tile is; heights 1 .. max_rows all are.
struct TileSet {
  int max_rows = 1;
  TileFn tile[kMaxTileRows][3] = {};
  // What many rows use instead, where it pays.
  const ExpandedTiles* expanded = nullptr;
};

// Panels of packed bytes are rewritten, a chunk of k at a time, as their tiles
// want them. A chunk stays in L1 while all rows of a range meet it: unpacking
// costs next to nothing per row. Sums of rows move in and out of a buffer.
struct ExpandedTiles {
  // `groups` of a panel to `out`, 64-byte aligned, groups * group_bytes long.
  void (*expand)(const uint8_t* packed, int64_t groups, uint8_t* out) = nullptr;
  int64_t group_bytes = 0;
  int64_t chunk_groups = 0;  // at most, whole super-blocks
  int64_t min_rows = 0;      // below these the packed bytes are read directly
  // Of one or two panels. Called for chunk after chunk: TileArgs' groups and
  // rows are the chunk's, and `out` holds the sums so far, +0 before the first.
  TileSet tiles;
};

// Of one level: tiles, one set per WeightFormat in its order, and what it does
// with rows before and after.
struct MatmulTiles {
  const TileSet* sets[kNumWeightFormats];
  const PackFns* pack;
  // Activations of so many rows meet a few panels before the next ones: half of
  // a common L2, or more where tiles are slow enough to read them from beyond.
  int64_t row_range_bytes = 512 << 10;
  // If it is not null: what the level has for blocks, one per format.
  const BlockTiles* blocks = nullptr;
};

// Of Q4_K, Q5_K and Q6_K, which have files of their own.
extern const TileSet kKTilesPortable[3];
extern const TileSet kKTilesAvx2[3];
extern const TileSet kKTilesAvx512[3];
extern const BlockTiles kKBlocksAmx[3];

// What MatmulAvx512() runs: level amx has blocks beside it.
const MatmulTiles& MatmulTilesAvx512();

void RunMatmul(const OpContext& context, const MatmulArgs& args,
               const MatmulTiles& tiles);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_MATMUL_TILES_H_
