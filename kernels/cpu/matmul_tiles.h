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

// tile[r - 1][i]: r rows by 1 << i panels. A height is present when its
// one-panel tile is; heights 1 .. max_rows all are.
struct TileSet {
  int max_rows = 1;
  TileFn tile[kMaxTileRows][3] = {};
};

// Of one level: tiles, one set per WeightFormat in its order, and what it does
// with rows before and after.
struct MatmulTiles {
  const TileSet* sets[kNumWeightFormats];
  const PackFns* pack;
};

// Of Q4_K, Q5_K and Q6_K, which have files of their own.
extern const TileSet kKTilesPortable[3];
extern const TileSet kKTilesAvx2[3];
extern const TileSet kKTilesAvx512[3];

void RunMatmul(const OpContext& context, const MatmulArgs& args,
               const MatmulTiles& tiles);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_MATMUL_TILES_H_
