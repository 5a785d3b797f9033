#include <immintrin.h>

#include "kernels/cpu/code_lines_avx512.h"
#include "kernels/cpu/matmul_tiles.h"
#include "kernels/cpu/ops_avx512.h"

// Every loop over accumulators is unrolled by pragma: otherwise GCC 12 keeps
// the arrays in memory. Nothing here may call an inline function of another
// header: its copy, compiled for AVX-512, could be the one that the linker
// keeps for everybody.

namespace sluice::kernels {
namespace {

// Line k (4 of k by 16 columns) as unsigned bytes: value + Offset.
inline __m512i Line(const PackedQ8_0& group, int k) {
  return _mm512_xor_si512(_mm512_loadu_si512(group.codes[k]),
                          _mm512_set1_epi8(-128));
}
template <typename Group>
inline __m512i Line(const Group& group, int k) {
  const __m512i low = Nibbles(group.codes, k);
  if constexpr (requires { group.high; }) {
    return _mm512_or_si512(low, Plane(group.high, k, 1));
  } else {
    return low;
  }
}

// - offset * sum of the row's codes, the value the products are added to.
inline __m512i Start(const PackedQ8_0*, const int32_t* minus_128_sum) {
  return _mm512_set1_epi32(*minus_128_sum);
}
inline __m512i Start(const PackedQ4_0*, const int32_t* minus_128_sum) {
  return _mm512_srai_epi32(_mm512_set1_epi32(*minus_128_sum), 4);
}
inline __m512i Start(const PackedQ5_0*, const int32_t* minus_128_sum) {
  return _mm512_srai_epi32(_mm512_set1_epi32(*minus_128_sum), 3);
}
// With a minimum there is no offset.
template <typename Group>
inline __m512i Start(const Group*, const int32_t*) {
  return _mm512_setzero_si512();
}

// Numerics section 3. One group of kRows x kPanels: codes in the int32
// accumulators, then one fma (two with a minimum) into f.
template <typename Group, int kRows, int kPanels>
inline void Int8Group(const Group* const* groups, const ActivationBlock& rows,
                      int64_t at, __m512 (&f)[kRows][kPanels]) {
  const int8_t* q = rows.codes + at * kGroupElements;
  __m512i x[kRows][kPanels];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    const __m512i start = Start(groups[0], rows.minus_128_sum + at + m);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) x[m][p] = start;
  }
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
    __m512i line[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) line[p] = Line(*groups[p], k);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const __m512i a = _mm512_set1_epi32(Word(q + m * kGroupElements + 4 * k));
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        x[m][p] = _mm512_dpbusd_epi32(x[m][p], line[p], a);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const __m512 dw = Halves(groups[p]->scale);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const __m512 s = _mm512_mul_ps(dw, _mm512_set1_ps(rows.scale[at + m]));
      f[m][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(x[m][p]), s, f[m][p]);
    }
    if constexpr (requires { groups[p]->minimum; }) {
      const __m512 minimum = Halves(groups[p]->minimum);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        f[m][p] = _mm512_fmadd_ps(
            minimum, _mm512_set1_ps(rows.scaled_sum[at + m]), f[m][p]);
      }
    }
  }
}

template <typename Group, int kRows, int kPanels>
void Int8Tile(const TileArgs& args) {
  __m512 f[kRows][kPanels];
  Zero(f);
  const Group* groups[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    groups[p] =
        reinterpret_cast<const Group*>(args.panel + p * args.panel_bytes);
  }
  for (int64_t g = 0; g < args.groups; ++g) {
    Int8Group(groups, args.rows, g * args.rows.height, f);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      PrefetchAhead<sizeof(Group), kPanels, kRows>(groups[p]);
      ++groups[p];
    }
  }
  StoreOut(f, args.out);
}

// Order t32, numerics section 5: chains e (even k) and o (odd k) of 16.
template <int kRows, int kPanels>
void Bf16Tile(const TileArgs& args) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  __m512 f[kRows][kPanels];
  Zero(f);
  const PackedBf16* groups = reinterpret_cast<const PackedBf16*>(args.panel);
  for (int64_t g = 0; g < args.groups; ++g, ++groups) {
    const float* a = args.rows.values + g * args.rows.height * kGroupElements;
    __m512 e[kRows][kPanels];
    __m512 o[kRows][kPanels];
    Zero(e);
    Zero(o);
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const __m512i pair = _mm512_loadu_si512(
            reinterpret_cast<const char*>(groups->values[r]) +
            p * args.panel_bytes);
        const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
        const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pair, high));
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          const float* row = a + m * kGroupElements;
          e[m][p] = _mm512_fmadd_ps(even, _mm512_set1_ps(row[r]), e[m][p]);
          o[m][p] = _mm512_fmadd_ps(odd, _mm512_set1_ps(row[16 + r]), o[m][p]);
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kRows <= 4) {
        PrefetchAhead<sizeof(PackedBf16), kPanels, kRows>(
            reinterpret_cast<const char*>(groups) + p * args.panel_bytes);
      }
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        f[m][p] = _mm512_add_ps(f[m][p], _mm512_add_ps(e[m][p], o[m][p]));
      }
    }
  }
  StoreOut(f, args.out);
}

inline __m512 ColumnsAt(const PackedF32* group, int k) {
  return _mm512_loadu_ps(group->values[k]);
}
inline __m512 ColumnsAt(const PackedF16* group, int k) {
  return Halves(group->values[k]);
}

// Numerics section 6: one chain over k.
template <typename Group, int kRows, int kPanels>
void F32Tile(const TileArgs& args) {
  __m512 f[kRows][kPanels];
  Zero(f);
  const uint8_t* panel = args.panel;
  for (int64_t g = 0; g < args.groups; ++g, panel += sizeof(Group)) {
    const float* a = args.rows.values + g * args.rows.height * kGroupElements;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kRows <= 4) {
        PrefetchAhead<sizeof(Group), kPanels, kRows>(panel +
                                                     p * args.panel_bytes);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kGroupElements; ++k) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const __m512 w = ColumnsAt(
            reinterpret_cast<const Group*>(panel + p * args.panel_bytes), k);
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          f[m][p] = _mm512_fmadd_ps(_mm512_set1_ps(a[m * kGroupElements + k]),
                                    w, f[m][p]);
        }
      }
    }
  }
  StoreOut(f, args.out);
}

// Few rows read four panels at once: more loads in flight than one stream
// sustains. From two rows on, panels also share each broadcast.
template <typename Group>
constexpr TileSet Int8Tiles() {
  return {.max_rows = 6,
          .tile = {{Int8Tile<Group, 1, 1>, Int8Tile<Group, 1, 2>,
                    Int8Tile<Group, 1, 4>},
                   {Int8Tile<Group, 2, 1>, Int8Tile<Group, 2, 2>},
                   {Int8Tile<Group, 3, 1>, Int8Tile<Group, 3, 2>},
                   {Int8Tile<Group, 4, 1>, Int8Tile<Group, 4, 2>},
                   {Int8Tile<Group, 5, 1>, Int8Tile<Group, 5, 2>},
                   {Int8Tile<Group, 6, 1>, Int8Tile<Group, 6, 2>}}};
}

constexpr TileSet Bf16Tiles() {
  return {.max_rows = 8,
          .tile = {{Bf16Tile<1, 1>, Bf16Tile<1, 2>, Bf16Tile<1, 4>},
                   {Bf16Tile<2, 1>, Bf16Tile<2, 2>},
                   {Bf16Tile<3, 1>, Bf16Tile<3, 2>},
                   {Bf16Tile<4, 1>, Bf16Tile<4, 2>},
                   {Bf16Tile<5, 1>},
                   {Bf16Tile<6, 1>},
                   {Bf16Tile<7, 1>},
                   {Bf16Tile<8, 1>}}};
}

template <typename Group>
constexpr TileSet F32Tiles() {
  return {
      .max_rows = 6,
      .tile = {
          {F32Tile<Group, 1, 1>, F32Tile<Group, 1, 2>, F32Tile<Group, 1, 4>},
          {F32Tile<Group, 2, 1>, F32Tile<Group, 2, 2>, F32Tile<Group, 2, 4>},
          {F32Tile<Group, 3, 1>, F32Tile<Group, 3, 2>},
          {F32Tile<Group, 4, 1>, F32Tile<Group, 4, 2>},
          {F32Tile<Group, 5, 1>, F32Tile<Group, 5, 2>},
          {F32Tile<Group, 6, 1>, F32Tile<Group, 6, 2>}}};
}

constexpr TileSet kF32 = F32Tiles<PackedF32>();
constexpr TileSet kF16 = F32Tiles<PackedF16>();
constexpr TileSet kBf16 = Bf16Tiles();
constexpr TileSet kQ8_0 = Int8Tiles<PackedQ8_0>();
constexpr TileSet kQ4_0 = Int8Tiles<PackedQ4_0>();
constexpr TileSet kQ4_1 = Int8Tiles<PackedQ4_1>();
constexpr TileSet kQ5_0 = Int8Tiles<PackedQ5_0>();
constexpr TileSet kQ5_1 = Int8Tiles<PackedQ5_1>();

constexpr MatmulTiles kTiles = {
    {&kF32, &kF16, &kBf16, &kQ8_0, &kQ4_0, &kQ4_1, &kQ5_0, &kQ5_1,
     &kKTilesAvx512[0], &kKTilesAvx512[1], &kKTilesAvx512[2]},
    &kPackAvx512,
    // A tile takes 1.6 bytes of activations a cycle: L3 gives more.
    2 << 20};

}  // namespace

const MatmulTiles& MatmulTilesAvx512() { return kTiles; }

void MatmulAvx512(const OpContext& context, const MatmulArgs& args) {
  RunMatmul(context, args, kTiles);
}

}  // namespace sluice::kernels
