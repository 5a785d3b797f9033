#include <immintrin.h>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/code_lines_avx512.h"
#include "kernels/cpu/matmul_tiles.h"
#include "kernels/cpu/ops_amx.h"
#include "kernels/cpu/ops_avx512.h"

// Products of many rows by tdpbssd and tdpbf16ps; fewer go by the tiles of
// matmul_avx512.cc. What bounds the integer formats is not the multiplier but
// what follows each 32 of k: a tile of sums is stored (16 cycles), and its 16
// rows are loaded, converted, scaled and added (some 30 more). So a tile is
// read out one step of four groups after it was computed, which lets both run
// at once, and its weights are unpacked to s8 once for all row blocks. BF16
// keeps its sums in the tiles and is bound by L2 and memory: 32 x 32 results,
// k in slabs whose weights stay in L1. As in matmul_avx512.cc, loops over
// accumulators are unrolled by pragma, and no inline function of another
// header but the two above is called.

namespace sluice::kernels {
namespace {

#define SLUICE_INLINE __attribute__((always_inline)) inline

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kOutStride = 2 * kPanelColumns;        // floats of a row
constexpr int64_t kOutFloats = kBlockRows * kOutStride;  // of a block

// ---- Scales per 32 of k (numerics section 3)

constexpr int64_t kSlabGroups = 64;
constexpr int64_t kStepGroups = 4;
constexpr int64_t kStepBytes = 2 * kStepGroups * kTileBytes;

// A panel of a slab, as tdpbssd and the read-out take it.
struct Panel {
  alignas(64) int8_t codes[kSlabGroups][8][64];
  float scale[kSlabGroups][kPanelColumns];
  float minimum[kSlabGroups][kPanelColumns];
};

// Half a page keeps two panels off each other's offsets in a page, which a
// store and a load behind it would be held for.
struct Slab {
  Panel first;
  alignas(64) uint8_t apart[2048];
  Panel second;
  // Two halves, written and read in turn: [group][panel][16][16].
  alignas(64) char sums[2][kStepBytes];
  SlabRange groups;             // at hand
  const Panel* panels[2] = {};  // the first twice when there is but one
};

// Line k of a group as s8.
inline __m512i SignedLine(const PackedQ8_0& group, int k) {
  return _mm512_loadu_si512(group.codes[k]);
}
inline __m512i SignedLine(const PackedQ4_0& group, int k) {
  return _mm512_sub_epi8(Nibbles(group.codes, k), _mm512_set1_epi8(8));
}
inline __m512i SignedLine(const PackedQ4_1& group, int k) {
  return Nibbles(group.codes, k);
}
inline __m512i SignedLine(const PackedQ5_0& group, int k) {
  return _mm512_sub_epi8(
      _mm512_or_si512(Nibbles(group.codes, k), Plane(group.high, k, 1)),
      _mm512_set1_epi8(16));
}
inline __m512i SignedLine(const PackedQ5_1& group, int k) {
  return _mm512_or_si512(Nibbles(group.codes, k), Plane(group.high, k, 1));
}

template <typename Group>
inline constexpr bool kHasMinimum = requires(Group group) {
  group.minimum;
};

template <typename Group>
void Expand(const uint8_t* from, int64_t groups, Panel& to) {
  const Group* group = reinterpret_cast<const Group*>(from);
  for (int64_t g = 0; g < groups; ++g, ++group) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      _mm512_store_si512(to.codes[g][k], SignedLine(*group, k));
    }
    _mm512_store_ps(to.scale[g], Halves(group->scale));
    if constexpr (kHasMinimum<Group>) {
      _mm512_store_ps(to.minimum[g], Halves(group->minimum));
    }
  }
}

// The scales of four groups, and where their sums go.
struct ReadOut {
  const float* row_scale = nullptr;       // [group][16]
  const float* row_scaled_sum = nullptr;  // likewise
  const Panel* panels[2] = {};
  int64_t group = 0;   // the first, in the panels
  float* f = nullptr;  // [16][2][16]
};

// Rows 8 * half .. + 7 of group i of four: f = fma(I, dw * da, f), and with a
// minimum f = fma(m, t, f).
template <bool kMinimum>
SLUICE_INLINE void ReadGroup(const ReadOut& to, const char* sums, int half,
                             int i, __m512 (&f)[8][2]) {
  const Panel& left = *to.panels[0];
  const Panel& right = *to.panels[1];
  const __m512 d0 = _mm512_load_ps(left.scale[to.group + i]);
  const __m512 d1 = _mm512_load_ps(right.scale[to.group + i]);
  const char* tile = sums + 2 * i * kTileBytes + half * 512;
  const int64_t first = i * kBlockRows + half * 8;
#pragma GCC unroll 8
  for (int m = 0; m < 8; ++m) {
    const __m512 da = _mm512_set1_ps(to.row_scale[first + m]);
    f[m][0] =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(tile + m * 64)),
                        _mm512_mul_ps(d0, da), f[m][0]);
    f[m][1] = _mm512_fmadd_ps(
        _mm512_cvtepi32_ps(_mm512_load_si512(tile + kTileBytes + m * 64)),
        _mm512_mul_ps(d1, da), f[m][1]);
    if constexpr (kMinimum) {
      const __m512 t = _mm512_set1_ps(to.row_scaled_sum[first + m]);
      f[m][0] = _mm512_fmadd_ps(_mm512_load_ps(left.minimum[to.group + i]), t,
                                f[m][0]);
      f[m][1] = _mm512_fmadd_ps(_mm512_load_ps(right.minimum[to.group + i]), t,
                                f[m][1]);
    }
  }
  asm volatile("" ::: "memory");
}

SLUICE_INLINE void LoadHalf(const float* from, __m512 (&f)[8][2]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) f[i / 2][i % 2] = _mm512_load_ps(from + i * 16);
}
SLUICE_INLINE void StoreHalf(const __m512 (&f)[8][2], float* to) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_ps(to + i * 16, f[i / 2][i % 2]);
}

// The products of four groups of a block by two panels, whose sums go to `out`
// but for the last group's, which stay in tiles 2 and 3 until the next step.
struct Step {
  const int8_t* a = nullptr;  // [4][16][32]
  const int8_t* b[2] = {};    // [4][8][64]
  char* out = nullptr;        // [4][2] tiles
  char* in = nullptr;         // `out` of the step before, read out by:
  ReadOut read;
};

// Group kI of the step into kTo and kTo + 1, and meanwhile, one product at a
// time, two groups of the step before out of `in`, where the other two tiles
// are stored at `to` first.
template <bool kMinimum, int kI, int kTo>
SLUICE_INLINE void StepGroup(const Step& step, char* to, int half, int read,
                             __m512 (&f)[8][2]) {
  constexpr int kOther = kTo ^ 2;
  constexpr int kA = kTo == 0 ? 4 : 5;
  StreamTile<kA>(step.a + kI * 512, kGroupElements);
  LoadTile<6>(step.b[0] + kI * 512, 64);
  ZeroTile<kTo>();
  MultiplyInt8<kTo, kA, 6>();
  StoreTileTo<kOther>(to, 64);
  ReadGroup<kMinimum>(step.read, step.in, half, read, f);
  LoadTile<7>(step.b[1] + kI * 512, 64);
  ZeroTile<kTo + 1>();
  MultiplyInt8<kTo + 1, kA, 7>();
  StoreTileTo<kOther + 1>(to + kTileBytes, 64);
  ReadGroup<kMinimum>(step.read, step.in, half, read + 1, f);
}

template <bool kMinimum>
__attribute__((noinline)) void RunStep(const Step& step) {
  __m512 f[8][2];
  LoadHalf(step.read.f, f);
  StepGroup<kMinimum, 0, 0>(step, step.in + 6 * kTileBytes, 0, 0, f);
  StepGroup<kMinimum, 1, 2>(step, step.out, 0, 2, f);
  StoreHalf(f, step.read.f);
  LoadHalf(step.read.f + kOutFloats / 2, f);
  StepGroup<kMinimum, 2, 0>(step, step.out + 2 * kTileBytes, 1, 0, f);
  StepGroup<kMinimum, 3, 2>(step, step.out + 4 * kTileBytes, 1, 2, f);
  StoreHalf(f, step.read.f + kOutFloats / 2);
}

// Reads the last step's sums out.
template <bool kMinimum>
__attribute__((noinline)) void Drain(const Step& step) {
  StoreTileTo<2>(step.in + 6 * kTileBytes, 64);
  StoreTileTo<3>(step.in + 7 * kTileBytes, 64);
  for (int half = 0; half < 2; ++half) {
    __m512 f[8][2];
    float* at = step.read.f + half * kOutFloats / 2;
    LoadHalf(at, f);
    for (int i = 0; i < kStepGroups; ++i) {
      ReadGroup<kMinimum>(step.read, step.in, half, i, f);
    }
    StoreHalf(f, at);
  }
}

// One group of a block of any height by two panels, read out at once: what is
// left of a block's groups, and a short block.
struct OneGroup {
  const ActivationBlock& rows;
  int64_t at = 0;  // of row 0, in the block
  int64_t panel_group = 0;
  char* sums = nullptr;  // two tiles
  float* f = nullptr;    // [height][2][16]
};
template <bool kMinimum>
__attribute__((noinline)) void RunOneGroup(const OneGroup& args,
                                           const Panel* const* panels) {
  const int64_t g = args.panel_group;
  StreamTile<4>(args.rows.codes + args.at * kGroupElements, kGroupElements);
  LoadTile<6>(panels[0]->codes[g], 64);
  LoadTile<7>(panels[1]->codes[g], 64);
  ZeroTile<0>();
  MultiplyInt8<0, 4, 6>();
  ZeroTile<1>();
  MultiplyInt8<1, 4, 7>();
  StoreTileTo<0>(args.sums, 64);
  StoreTileTo<1>(args.sums + kTileBytes, 64);
  for (int p = 0; p < 2; ++p) {
    const __m512 d = _mm512_load_ps(panels[p]->scale[g]);
    for (int64_t m = 0; m < args.rows.height; ++m) {
      float* to = args.f + (2 * m + p) * kPanelColumns;
      const __m512i sums =
          _mm512_load_si512(args.sums + p * kTileBytes + m * 64);
      const __m512 da = _mm512_set1_ps(args.rows.scale[args.at + m]);
      __m512 f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(d, da),
                                 _mm512_load_ps(to));
      if constexpr (kMinimum) {
        const __m512 t = _mm512_set1_ps(args.rows.scaled_sum[args.at + m]);
        f = _mm512_fmadd_ps(_mm512_load_ps(panels[p]->minimum[g]), t, f);
      }
      _mm512_store_ps(to, f);
    }
  }
}

// The first `whole` blocks by the slab.
template <bool kMinimum>
void RunSlab(const BlocksArgs& args, int64_t whole, Slab& slab, Ahead& ahead) {
  const SlabRange groups = slab.groups;
  const Panel* const* panels = slab.panels;
  const int64_t count = groups.end - groups.begin;
  const int64_t stepped = count / kStepGroups * kStepGroups;
  alignas(64) float nothing[kOutFloats] = {};
  Step step = {.read = {.row_scale = args.blocks[0].scale,
                        .row_scaled_sum = args.blocks[0].scaled_sum,
                        .panels = {panels[0], panels[1]},
                        .f = nothing}};
  int half = 0;
  for (int64_t b = 0; b < whole && stepped > 0; ++b) {
    const ActivationBlock& rows = args.blocks[b];
    for (int64_t g = 0; g < stepped; g += kStepGroups, half ^= 1) {
      const int64_t at = (groups.begin + g) * kBlockRows;
      ahead.Fetch();
      step.a = rows.codes + at * kGroupElements;
      step.b[0] = panels[0]->codes[g][0];
      step.b[1] = panels[1]->codes[g][0];
      step.out = slab.sums[half];
      step.in = slab.sums[half ^ 1];
      RunStep<kMinimum>(step);
      step.read.row_scale = rows.scale + at;
      step.read.row_scaled_sum = rows.scaled_sum + at;
      step.read.group = g;
      step.read.f = args.out + b * kOutFloats;
    }
  }
  if (whole > 0 && stepped > 0) {
    step.in = slab.sums[half ^ 1];
    Drain<kMinimum>(step);
  }
  for (int64_t b = 0; b < whole; ++b) {
    for (int64_t g = stepped; g < count; ++g) {
      RunOneGroup<kMinimum>({.rows = args.blocks[b],
                             .at = (groups.begin + g) * kBlockRows,
                             .panel_group = g,
                             .sums = slab.sums[0],
                             .f = args.out + b * kOutFloats},
                            panels);
    }
  }
}

template <typename Group>
void Int8Blocks(const BlocksArgs& args) {
  constexpr bool kMinimum = kHasMinimum<Group>;
  Slab slab;
  slab.panels[0] = &slab.first;
  slab.panels[1] = args.panels == 2 ? &slab.second : &slab.first;
  const ActivationBlock& last = args.blocks[args.num_blocks - 1];
  const bool short_last = last.height < kBlockRows;
  const int64_t whole = args.num_blocks - (short_last ? 1 : 0);
  __builtin_memset(
      args.out, 0,
      static_cast<size_t>(args.num_blocks * kOutFloats) * sizeof(float));
  Ahead ahead(args.panel + args.panels * args.panel_bytes, args.ahead_bytes,
              args.num_blocks * (args.groups / kStepGroups + 1));
  const TileConfig config = ProductTiles(kBlockRows, kGroupElements);
  TileScope tiles(config);
  for (int64_t g = 0; g < args.groups; g += kSlabGroups) {
    const int64_t left = args.groups - g;
    const int64_t count = left < kSlabGroups ? left : kSlabGroups;
    const uint8_t* from = args.panel + g * static_cast<int64_t>(sizeof(Group));
    slab.groups = {g, g + count};
    Expand<Group>(from, count, slab.first);
    if (args.panels == 2) {
      Expand<Group>(from + args.panel_bytes, count, slab.second);
    }
    RunSlab<kMinimum>(args, whole, slab, ahead);
    if (!short_last) continue;
    tiles.Configure(
        ProductTiles(static_cast<int>(last.height), kGroupElements));
    for (int64_t i = g; i < slab.groups.end; ++i) {
      RunOneGroup<kMinimum>({.rows = last,
                             .at = i * last.height,
                             .panel_group = i - g,
                             .sums = slab.sums[0],
                             .f = args.out + whole * kOutFloats},
                            slab.panels);
      ahead.Fetch();
    }
    tiles.Configure(config);
  }
}

// ---- BF16 in order t32 (numerics section 5)

constexpr int64_t kBf16SlabGroups = 16;

struct Bf16Step {
  const uint8_t* a[2] = {};  // [group][height][64]
  const uint8_t* b[2] = {};  // [group][16][64]
  int64_t a_bytes = 0;       // of a group
  int64_t groups = 0;
  bool first = true;
  float* out = nullptr;
};

// kBlocks * 16 rows by 32 columns: tiles 0 and 1 of the first block, 2 and 3 of
// the second.
template <int kBlocks>
__attribute__((noinline)) void RunBf16(const Bf16Step& step, Ahead& ahead) {
  constexpr int64_t kStride = kOutStride * sizeof(float);
  float* c[4] = {step.out, step.out + kPanelColumns, step.out + kOutFloats,
                 step.out + kOutFloats + kPanelColumns};
  if (step.first) {
    ZeroTile<0>();
    ZeroTile<1>();
    if constexpr (kBlocks == 2) {
      ZeroTile<2>();
      ZeroTile<3>();
    }
  } else {
    LoadTile<0>(c[0], kStride);
    LoadTile<1>(c[1], kStride);
    if constexpr (kBlocks == 2) {
      LoadTile<2>(c[2], kStride);
      LoadTile<3>(c[3], kStride);
    }
  }
  for (int64_t g = 0; g < step.groups; ++g) {
    StreamTile<4>(step.a[0] + g * step.a_bytes, kTileRowBytes);
    LoadTile<6>(step.b[0] + g * kTileBytes, kTileRowBytes);
    MultiplyBf16<0, 4, 6>();
    LoadTile<7>(step.b[1] + g * kTileBytes, kTileRowBytes);
    MultiplyBf16<1, 4, 7>();
    if constexpr (kBlocks == 2) {
      StreamTile<5>(step.a[1] + g * step.a_bytes, kTileRowBytes);
      MultiplyBf16<2, 5, 6>();
    }
    ahead.Fetch();
    if constexpr (kBlocks == 2) MultiplyBf16<3, 5, 7>();
  }
  StoreTileTo<0>(c[0], kStride);
  StoreTileTo<1>(c[1], kStride);
  if constexpr (kBlocks == 2) {
    StoreTileTo<2>(c[2], kStride);
    StoreTileTo<3>(c[3], kStride);
  }
}

void Bf16Blocks(const BlocksArgs& args) {
  static_assert(sizeof(PackedBf16) == kTileBytes);
  const ActivationBlock& last = args.blocks[args.num_blocks - 1];
  const int64_t whole = args.num_blocks - (last.height < kBlockRows ? 1 : 0);
  Ahead ahead(args.panel + args.panels * args.panel_bytes, args.ahead_bytes,
              (args.num_blocks + 1) / 2 * args.groups);
  const TileConfig config = ProductTiles(kBlockRows, kTileRowBytes);
  TileScope tiles(config);
  for (int64_t g = 0; g < args.groups; g += kBf16SlabGroups) {
    const int64_t left = args.groups - g;
    const uint8_t* from = args.panel + g * kTileBytes;
    Bf16Step step = {
        .b = {from, args.panels == 2 ? from + args.panel_bytes : from},
        .groups = left < kBf16SlabGroups ? left : kBf16SlabGroups,
        .first = g == 0};
    for (int64_t b = 0; b < args.num_blocks;) {
      const ActivationBlock& rows = args.blocks[b];
      step.a_bytes = rows.height * kTileRowBytes;
      step.a[0] = rows.tile_rows[g * rows.height];
      step.out = args.out + b * kOutFloats;
      if (b + 1 < whole) {
        step.a[1] = args.blocks[b + 1].tile_rows[g * kBlockRows];
        RunBf16<2>(step, ahead);
        b += 2;
        continue;
      }
      const bool whole_block = b < whole;
      if (!whole_block) {
        tiles.Configure(
            ProductTiles(static_cast<int>(rows.height), kTileRowBytes));
      }
      RunBf16<1>(step, ahead);
      if (!whole_block) tiles.Configure(config);
      ++b;
    }
  }
}

// ---- By format

// AMX costs as much for one row of a block as for 16: it wins where VNNI tiles
// of as many rows take longer. Measured for 8 (VNNI) and 16 (AMX); behind other
// blocks the weights are unpacked already.
constexpr int64_t kInt8LeastRows = 16;
constexpr int64_t kInt8LeastLastRows = 8;

template <typename Group>
constexpr BlockTiles Int8() {
  return {.run = Int8Blocks<Group>,
          .least_rows = kInt8LeastRows,
          .least_last_rows = kInt8LeastLastRows,
          .group_bytes = kGroupElements + 8};
}

constexpr BlockTiles kBf16Blocks = {.run = Bf16Blocks,
                                    .least_rows = 2,
                                    .least_last_rows = 1,
                                    .group_bytes = kTileRowBytes};

}  // namespace

void MatmulAmx(const OpContext& context, const MatmulArgs& args) {
  static const BlockTiles kBlocks[kNumWeightFormats] = {{},  // F32, F16
                                                        {},
                                                        kBf16Blocks,
                                                        Int8<PackedQ8_0>(),
                                                        Int8<PackedQ4_0>(),
                                                        Int8<PackedQ4_1>(),
                                                        Int8<PackedQ5_0>(),
                                                        Int8<PackedQ5_1>(),
                                                        kKBlocksAmx[0],
                                                        kKBlocksAmx[1],
                                                        kKBlocksAmx[2]};
  MatmulTiles tiles = MatmulTilesAvx512();
  tiles.blocks = kBlocks;
  RunMatmul(context, args, tiles);
}

}  // namespace sluice::kernels
