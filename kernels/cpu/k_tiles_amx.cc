#include <immintrin.h>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/code_lines_avx512.h"
#include "kernels/cpu/matmul_tiles.h"

// Numerics section 4 by tdpbssd. Sub-scale times code, w', does not fit a byte,
// so it is split into two planes of s8, w' = 64 hi + lo, and 64 * H + L of
// their two tiles is the exact sum of a super-block: one read-out per 256 of k
// where the formats with a scale per 32 have eight. 16 tile products (256
// cycles for 32 rows) run beside the read-out of the super-block of two steps
// ago; Q4_K and Q5_K are bound by their minima there, Q6_K by neither alone. No
// inline function of another header but the first two is called, and loops over
// accumulators are unrolled by pragma, as in matmul_avx512.cc.

namespace sluice::kernels {
namespace {

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kOutStride = 2 * kPanelColumns;        // floats of a row
constexpr int64_t kOutFloats = kBlockRows * kOutStride;  // of a block
constexpr int64_t kQuarters = 4;  // of a super-block: 64 of k, a tile's row
constexpr int kPairRows = 2 * kBlockRows;

// Expanded at once; and of these, what two blocks after two meet while it is in
// L1: 32 KiB of planes.
constexpr int64_t kSlabSupers = 8;
constexpr int64_t kPassSupers = 4;

// A super-block of a panel as tdpbssd and the read-out take it.
struct Super {
  alignas(64) int8_t planes[kQuarters][2][16][64];  // [64 of k][hi, lo]
  float d[kPanelColumns];
  float minus_dmin[kPanelColumns];
  int16_t minima[kSubBlocks / 2][kPanelColumns][2];
};

inline __m256i Load256(const void* bytes) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

// Line k of sub-block j: codes in bytes, signed or below 128.
inline __m512i SignedLine(const PackedQ4_K& super, int j, int k) {
  return Nibbles(super.codes[j], k);
}
inline __m512i SignedLine(const PackedQ5_K& super, int j, int k) {
  return _mm512_or_si512(Nibbles(super.codes[j], k),
                         Plane(super.high[j], k, 1));
}
inline __m512i SignedLine(const PackedQ6_K& super, int j, int k) {
  const __m512i code = _mm512_or_si512(
      Nibbles(super.codes[j], k), Plane(super.high[j][k / 4], k % 4 * 2, 2));
  return _mm512_sub_epi8(code, _mm512_set1_epi8(32));
}

// Sub-scales of lines 4 * part .. + 3, each in both halves of its column.
template <typename Packed>
inline __m512i ScalePairs(const Packed& super, int j, int) {
  const __m512i scale = _mm512_cvtepu8_epi32(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(super.scales[j])));
  return _mm512_or_si512(_mm512_slli_epi32(scale, 16), scale);
}
inline __m512i ScalePairs(const PackedQ6_K& super, int j, int part) {
  const __m512i pairs = _mm512_cvtepi8_epi16(Load256(super.scales[j]));
  return part == 0
             ? _mm512_or_si512(
                   _mm512_slli_epi32(pairs, 16),
                   _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)))
             : _mm512_or_si512(
                   _mm512_srli_epi32(pairs, 16),
                   _mm512_and_si512(
                       pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

template <typename Packed>
inline constexpr bool kHasMinima = requires(Packed super) {
  super.dmin;
};

// hi = (w' + 32) >> 6, -63 .. 64, and lo = w' - 64 hi, -32 .. 31.
struct Planes {
  __m512i hi;
  __m512i lo;
};
inline Planes Split(__m512i codes, __m512i scales) {
  const __m512i low_byte = _mm512_set1_epi16(255);
  const __m512i half = _mm512_set1_epi16(32);
  const __m512i even = _mm512_mullo_epi16(
      _mm512_srai_epi16(_mm512_slli_epi16(codes, 8), 8), scales);
  const __m512i odd = _mm512_mullo_epi16(_mm512_srai_epi16(codes, 8), scales);
  const __m512i even_hi = _mm512_srai_epi16(_mm512_add_epi16(even, half), 6);
  const __m512i odd_hi = _mm512_srai_epi16(_mm512_add_epi16(odd, half), 6);
  const __m512i even_lo = _mm512_sub_epi16(even, _mm512_slli_epi16(even_hi, 6));
  const __m512i odd_lo = _mm512_sub_epi16(odd, _mm512_slli_epi16(odd_hi, 6));
  return {_mm512_or_si512(_mm512_and_si512(even_hi, low_byte),
                          _mm512_slli_epi16(odd_hi, 8)),
          _mm512_or_si512(_mm512_and_si512(even_lo, low_byte),
                          _mm512_slli_epi16(odd_lo, 8))};
}

template <typename Packed>
void Expand(const Packed& from, Super& to) {
  for (int j = 0; j < kSubBlocks; ++j) {
    const __m512i scales[2] = {ScalePairs(from, j, 0), ScalePairs(from, j, 1)};
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      const Planes planes = Split(SignedLine(from, j, k), scales[k / 4]);
      const int row = j % 2 * 8 + k;
      _mm512_store_si512(to.planes[j / 2][0][row], planes.hi);
      _mm512_store_si512(to.planes[j / 2][1][row], planes.lo);
    }
  }
  _mm512_store_ps(to.d, Halves(from.d));
  if constexpr (kHasMinima<Packed>) {
    _mm512_store_ps(to.minus_dmin,
                    _mm512_sub_ps(_mm512_set1_ps(-0.0f), Halves(from.dmin)));
    for (int i = 0; i < kSubBlocks / 2; ++i) {
      _mm512_store_si512(to.minima[i],
                         _mm512_cvtepu8_epi16(Load256(from.minima[i])));
    }
  }
}

// The rows and the super-block that a pair of tiles belongs to.
struct ReadOut {
  const float* row_scale = nullptr;         // [height]
  const int16_t (*pair_sums)[2] = nullptr;  // [8][height], of even groups
  int64_t height = kBlockRows;
  const Super* super = nullptr;
  float* f = nullptr;  // [height], rows kOutStride apart
};

// f of row m: hi and lo sums at `sums` and a tile further.
template <bool kMinima>
inline void ReadRow(const ReadOut& to, const char* sums, int64_t m) {
  const __m512 da = _mm512_set1_ps(to.row_scale[m]);
  const __m512i hi = _mm512_load_si512(sums + m * 64);
  const __m512i lo = _mm512_load_si512(sums + kTileBytes + m * 64);
  const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(hi, 6), lo);
  float* at = to.f + m * kOutStride;
  __m512 f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                             _mm512_mul_ps(_mm512_load_ps(to.super->d), da),
                             _mm512_load_ps(at));
  if constexpr (kMinima) {
    __m512i minima = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int i = 0; i < kSubBlocks / 2; ++i) {
      minima = _mm512_dpwssd_epi32(
          minima, _mm512_load_si512(to.super->minima[i]),
          _mm512_set1_epi32(Word(to.pair_sums[2 * i * to.height + m])));
    }
    f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(minima),
                        _mm512_mul_ps(_mm512_load_ps(to.super->minus_dmin), da),
                        f);
  }
  _mm512_store_ps(at, f);
}

// Two blocks by one super-block of a panel. `last` takes the tiles of the step
// before, [block][hi, lo]; `in` holds those of the one before that, read out by
// `read`.
struct Step {
  const uint8_t* a[2] = {};  // of the blocks: [4][16][64]
  const Super* b = nullptr;
  char* last = nullptr;
  char* in = nullptr;
  ReadOut read[2];
};

// 64 of k. The first quarter stores each tile before it starts anew.
template <bool kMinima, int kQuarter>
inline void RunQuarter(const Step& step) {
  StreamTile<4>(step.a[0] + kQuarter * kTileBytes, kTileRowBytes);
  LoadTile<6>(step.b->planes[kQuarter][0], kTileRowBytes);
  if constexpr (kQuarter == 0) {
    StoreTileTo<0>(step.last, 64);
    ZeroTile<0>();
  }
  MultiplyInt8<0, 4, 6>();
  LoadTile<7>(step.b->planes[kQuarter][1], kTileRowBytes);
  if constexpr (kQuarter == 0) {
    StoreTileTo<1>(step.last + kTileBytes, 64);
    ZeroTile<1>();
  }
  MultiplyInt8<1, 4, 7>();
  StreamTile<5>(step.a[1] + kQuarter * kTileBytes, kTileRowBytes);
  if constexpr (kQuarter == 0) {
    StoreTileTo<2>(step.last + 2 * kTileBytes, 64);
    ZeroTile<2>();
  }
  MultiplyInt8<2, 5, 6>();
  if constexpr (kQuarter == 0) {
    StoreTileTo<3>(step.last + 3 * kTileBytes, 64);
    ZeroTile<3>();
  }
  MultiplyInt8<3, 5, 7>();
  constexpr int kBlock = kQuarter / 2;
  // Out of reach of the stores to f.
  const ReadOut read = step.read[kBlock];
  const char* sums = step.in + 2 * kBlock * kTileBytes;
#pragma GCC unroll 8
  for (int m = 0; m < kPairRows / kQuarters; ++m) {
    ReadRow<kMinima>(read, sums, kQuarter % 2 * 8 + m);
  }
  asm volatile("" ::: "memory");
}

template <bool kMinima>
__attribute__((noinline)) void RunStep(const Step& step) {
  RunQuarter<kMinima, 0>(step);
  RunQuarter<kMinima, 1>(step);
  RunQuarter<kMinima, 2>(step);
  RunQuarter<kMinima, 3>(step);
}

template <bool kMinima>
__attribute__((noinline)) void ReadPair(const ReadOut (&read)[2],
                                        const char* sums) {
  for (int block = 0; block < 2; ++block) {
    for (int m = 0; m < kBlockRows; ++m) {
      ReadRow<kMinima>(read[block], sums + 2 * block * kTileBytes, m);
    }
  }
}

// Where super-block `super` of a block's rows begins.
inline int64_t RowsAt(const ActivationBlock& rows, int64_t super) {
  return super * kSubBlocks * rows.height;
}
inline ReadOut ReadOutOf(const ActivationBlock& rows, int64_t super) {
  const int64_t at = RowsAt(rows, super);
  return {.row_scale = rows.scale + at,
          .pair_sums = rows.pair_sums + at,
          .height = rows.height};
}

// One block of any height by a super-block, read out at once: a last block
// without a partner, and a short one.
template <bool kMinima>
__attribute__((noinline)) void RunOneBlock(const ActivationBlock& rows,
                                           int64_t super, char* sums,
                                           const ReadOut& read) {
  const uint8_t* a = rows.tile_rows[RowsAt(rows, super) / 2];
  ZeroTile<0>();
  ZeroTile<1>();
  for (int64_t i = 0; i < kQuarters; ++i) {
    StreamTile<4>(a + i * rows.height * kTileRowBytes, kTileRowBytes);
    LoadTile<6>(read.super->planes[i][0], kTileRowBytes);
    MultiplyInt8<0, 4, 6>();
    LoadTile<7>(read.super->planes[i][1], kTileRowBytes);
    MultiplyInt8<1, 4, 7>();
  }
  StoreTileTo<0>(sums, 64);
  StoreTileTo<1>(sums + kTileBytes, 64);
  for (int64_t m = 0; m < rows.height; ++m) ReadRow<kMinima>(read, sums, m);
}

struct Slab {
  Super supers[kSlabSupers];
  alignas(64) char sums[2][4 * kTileBytes];
  SlabRange range;  // of the super-blocks at hand
};

// The pairs of blocks by a slab of a panel, whose results begin at `out`.
template <bool kMinima>
void RunPairs(const BlocksArgs& args, int64_t pairs, float* out, Slab& slab,
              Ahead& ahead) {
  const SlabRange supers = slab.range;
  alignas(64) float nothing[kBlockRows * kOutStride] = {};
  ReadOut none = ReadOutOf(args.blocks[0], 0);
  none.super = &slab.supers[0];
  none.f = nothing;
  // `read` is two steps behind, `next` one.
  Step step = {.read = {none, none}};
  ReadOut next[2] = {none, none};
  int half = 0;
  for (int64_t s = supers.begin; s < supers.end; s += kPassSupers) {
    const int64_t end =
        s + kPassSupers < supers.end ? s + kPassSupers : supers.end;
    for (int64_t b = 0; b < 2 * pairs; b += 2) {
      for (int64_t i = s; i < end; ++i, half ^= 1) {
        ahead.Fetch();
        step.b = &slab.supers[i - supers.begin];
        step.last = slab.sums[half];
        step.in = slab.sums[half ^ 1];
        for (int64_t p = 0; p < 2; ++p) {
          const ActivationBlock& rows = args.blocks[b + p];
          step.a[p] = rows.tile_rows[RowsAt(rows, i) / 2];
        }
        RunStep<kMinima>(step);
        for (int64_t p = 0; p < 2; ++p) {
          step.read[p] = next[p];
          next[p] = ReadOutOf(args.blocks[b + p], i);
          next[p].super = step.b;
          next[p].f = out + (b + p) * kOutFloats;
        }
      }
    }
  }
  ReadPair<kMinima>(step.read, slab.sums[half ^ 1]);
  StoreTileTo<0>(slab.sums[half], 64);
  StoreTileTo<1>(slab.sums[half] + kTileBytes, 64);
  StoreTileTo<2>(slab.sums[half] + 2 * kTileBytes, 64);
  StoreTileTo<3>(slab.sums[half] + 3 * kTileBytes, 64);
  ReadPair<kMinima>(next, slab.sums[half]);
}

template <bool kMinima>
void RunAlone(const ActivationBlock& rows, float* out, Slab& slab,
              Ahead& ahead) {
  for (int64_t i = slab.range.begin; i < slab.range.end; ++i) {
    ahead.Fetch();
    ReadOut read = ReadOutOf(rows, i);
    read.super = &slab.supers[i - slab.range.begin];
    read.f = out;
    RunOneBlock<kMinima>(rows, i, slab.sums[0], read);
  }
}

template <typename Packed>
void KBlocks(const BlocksArgs& args) {
  constexpr bool kMinima = kHasMinima<Packed>;
  Slab slab;
  const ActivationBlock& last = args.blocks[args.num_blocks - 1];
  const bool short_last = last.height < kBlockRows;
  const int64_t whole = args.num_blocks - (short_last ? 1 : 0);
  const int64_t supers = args.groups / kSubBlocks;
  __builtin_memset(
      args.out, 0,
      static_cast<size_t>(args.num_blocks * kOutFloats) * sizeof(float));
  Ahead ahead(args.panel + args.panels * args.panel_bytes, args.ahead_bytes,
              args.panels * supers * ((args.num_blocks + 1) / 2));
  const TileConfig config = ProductTiles(kBlockRows, kTileRowBytes);
  TileScope tiles(config);
  for (int64_t p = 0; p < args.panels; ++p) {
    const Packed* packed =
        reinterpret_cast<const Packed*>(args.panel + p * args.panel_bytes);
    float* out = args.out + p * kPanelColumns;
    for (int64_t s = 0; s < supers; s += kSlabSupers) {
      const int64_t left = supers - s;
      slab.range = {s, s + (left < kSlabSupers ? left : kSlabSupers)};
      for (int64_t i = s; i < slab.range.end; ++i) {
        Expand(packed[i], slab.supers[i - s]);
      }
      if (whole > 1) {
        RunPairs<kMinima>(args, whole / 2, out, slab, ahead);
      }
      if (whole % 2 == 1) {
        RunAlone<kMinima>(args.blocks[whole - 1],
                          out + (whole - 1) * kOutFloats, slab, ahead);
      }
      if (!short_last) continue;
      tiles.Configure(
          ProductTiles(static_cast<int>(last.height), kTileRowBytes));
      RunAlone<kMinima>(last, out + whole * kOutFloats, slab, ahead);
      tiles.Configure(config);
    }
  }
}

template <typename Packed>
constexpr BlockTiles KTiles() {
  return {.run = KBlocks<Packed>,
          .least_rows = 16,
          .least_last_rows = 8,
          .group_bytes = kGroupElements + 8};
}

}  // namespace

const BlockTiles kKBlocksAmx[3] = {KTiles<PackedQ4_K>(), KTiles<PackedQ5_K>(),
                                   KTiles<PackedQ6_K>()};

}  // namespace sluice::kernels
