#include <immintrin.h>

#include "kernels/cpu/code_lines_avx512.h"
#include "kernels/cpu/matmul_tiles.h"
#include "kernels/cpu/ops_avx512.h"

// BF16 by vdpbf16ps, which computes fma(low, low', fma(high, high', sum)) with
// subnormals flushed: two consecutive members of one chain of order t32 make
// its pair, the earlier one high (numerics section 5). Half the instructions
// of matmul_avx512.cc, whose tiles serve the other formats. As there, loops
// over accumulators are unrolled by pragma.

namespace sluice::kernels {
namespace {

// Lanes are (high, low): members r and r + 1 of the even chain, and of the odd
// one, out of the lines of r and r + 1.
struct Pairs {
  __m512bh even;
  __m512bh odd;
};
inline Pairs PairsOf(__m512i line, __m512i next) {
  constexpr __mmask32 kHigh = 0xaaaaaaaa;
  const __m512i even =
      _mm512_mask_blend_epi16(kHigh, next, _mm512_slli_epi32(line, 16));
  const __m512i odd =
      _mm512_mask_blend_epi16(kHigh, _mm512_srli_epi32(next, 16), line);
  return {(__m512bh)even, (__m512bh)odd};
}

inline __m512bh Broadcast(uint32_t pair) {
  return (__m512bh)_mm512_set1_epi32(static_cast<int>(pair));
}

template <int kRows, int kPanels>
void Bf16Tile(const TileArgs& args) {
  constexpr int kPairs = 8;  // of each chain in a group
  __m512 f[kRows][kPanels];
  Zero(f);
  const PackedBf16* groups = reinterpret_cast<const PackedBf16*>(args.panel);
  for (int64_t g = 0; g < args.groups; ++g, ++groups) {
    const uint32_t(*a)[2 * kPairs] = args.rows.pairs + g * args.rows.height;
    __m512 e[kRows][kPanels];
    __m512 o[kRows][kPanels];
    Zero(e);
    Zero(o);
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const char* line = reinterpret_cast<const char*>(groups->values[2 * i]);
        const Pairs w =
            PairsOf(_mm512_loadu_si512(line + p * args.panel_bytes),
                    _mm512_loadu_si512(line + 64 + p * args.panel_bytes));
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          e[m][p] = _mm512_dpbf16_ps(e[m][p], w.even, Broadcast(a[m][i]));
          o[m][p] =
              _mm512_dpbf16_ps(o[m][p], w.odd, Broadcast(a[m][kPairs + i]));
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kRows < 8) {
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

constexpr TileSet kBf16 = {
    .max_rows = 8,
    .tile = {{Bf16Tile<1, 1>, Bf16Tile<1, 2>, Bf16Tile<1, 4>},
             {Bf16Tile<2, 1>, Bf16Tile<2, 2>},
             {Bf16Tile<3, 1>, Bf16Tile<3, 2>},
             {Bf16Tile<4, 1>, Bf16Tile<4, 2>},
             {Bf16Tile<5, 1>},
             {Bf16Tile<6, 1>},
             {Bf16Tile<7, 1>},
             {Bf16Tile<8, 1>}}};

}  // namespace

void MatmulAvx512Bf16(const OpContext& context, const MatmulArgs& args) {
  if (args.w.format != WeightFormat::kBF16) return MatmulAvx512(context, args);
  constexpr MatmulTiles kTiles = {
      {nullptr, nullptr, &kBf16},  // by format: F32, F16, BF16
      &kPackAvx512,
      4 << 20};
  RunMatmul(context, args, kTiles);
}

}  // namespace sluice::kernels
