#include <immintrin.h>

#include "kernels/cpu/code_lines_avx2.h"
#include "kernels/cpu/matmul_tiles.h"

// Numerics section 4 by maddubs: sums of bytes stay in int16 as long as they
// fit, and the sub-scale is the factor of the madd that widens them. Columns
// come in halves of 8, as in matmul_avx2.cc; the float chain of a result moves
// once per 256 of k and stays in the tile's buffer.

namespace sluice::kernels {
namespace {

constexpr int kAheadBytes = 2048;

inline __m128i Load128(const void* bytes) {
  return _mm_loadu_si128(static_cast<const __m128i*>(bytes));
}

// Line k of sub-block j as unsigned codes, columns 8 * half and on.
inline __m256i Line(const PackedQ4_K& super, int j, int k, int half) {
  return Nibbles(super.codes[j], k, half);
}
inline __m256i Line(const PackedQ5_K& super, int j, int k, int half) {
  return _mm256_or_si256(Nibbles(super.codes[j], k, half),
                         Plane(super.high[j] + half * 32, k, 1));
}
inline __m256i Line(const PackedQ6_K& super, int j, int k, int half) {
  return _mm256_or_si256(Nibbles(super.codes[j], k, half),
                         Plane(super.high[j][k / 4] + half * 32, k % 4 * 2, 2));
}

// Lines whose products fit int16 together: at most 2 * 127 * 15 (31, 63) each.
inline constexpr int LinesOf(const PackedQ4_K*) { return 8; }
inline constexpr int LinesOf(const PackedQ5_K*) { return 4; }
inline constexpr int LinesOf(const PackedQ6_K*) { return 2; }

// The sub-scale of line k in both halves of each lane.
template <typename Super>
inline __m256i Scales(const Super& super, int j, int, int half) {
  const __m256i scale = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
      reinterpret_cast<const __m128i*>(super.scales[j] + 8 * half)));
  return _mm256_or_si256(scale, _mm256_slli_epi32(scale, 16));
}
inline __m256i Scales(const PackedQ6_K& super, int j, int k, int half) {
  const __m256i pairs =
      _mm256_cvtepi8_epi16(Load128(super.scales[j][8 * half]));
  const __m256i low = _mm256_set1_epi32(0xffff);
  return k < 4 ? _mm256_or_si256(_mm256_and_si256(pairs, low),
                                 _mm256_slli_epi32(pairs, 16))
               : _mm256_or_si256(_mm256_andnot_si256(low, pairs),
                                 _mm256_srli_epi32(pairs, 16));
}

template <typename Super, int kRows, int kHalves>
inline void AddSubBlock(const Super& super, int j, int half, const int8_t* q,
                        __m256i (&sums)[kRows][kHalves]) {
  constexpr int kLines = LinesOf(static_cast<const Super*>(nullptr));
#pragma GCC unroll 4
  for (int first = 0; first < 8; first += kLines) {
    __m256i x[kRows][kHalves];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) x[m][h] = _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (int i = 0; i < kLines; ++i) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const __m256i w = Line(super, j, first + i, half + h);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          const __m256i a = Broadcast(q + m * kGroupElements + 4 * (first + i));
          x[m][h] = _mm256_add_epi16(x[m][h], _mm256_maddubs_epi16(w, a));
        }
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256i scale = Scales(super, j, first, half + h);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        sums[m][h] =
            _mm256_add_epi32(sums[m][h], _mm256_madd_epi16(x[m][h], scale));
      }
    }
  }
}

// f of one row and half after the super-block whose first group is `at`.
template <typename Super>
inline __m256 Fold(const Super& super, int half, __m256i sums,
                   const ActivationBlock& rows, int64_t at, __m256 f) {
  const __m256 da = _mm256_set1_ps(rows.scale[at]);
  __m256i other = _mm256_setzero_si256();
  if constexpr (requires { super.dmin; }) {
#pragma GCC unroll 4
    for (int i = 0; i < kSubBlocks / 2; ++i) {
      const __m256i minima =
          _mm256_cvtepu8_epi16(Load128(super.minima[i][8 * half]));
      const __m256i pair = Broadcast(rows.pair_sums[at + 2 * i * rows.height]);
      other = _mm256_add_epi32(other, _mm256_madd_epi16(minima, pair));
    }
    f = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums),
                        _mm256_mul_ps(Halves(super.d + 8 * half), da), f);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(other),
                            _mm256_mul_ps(Halves(super.dmin + 8 * half), da),
                            f);
  } else {
    // The codes were taken 32 too high.
#pragma GCC unroll 8
    for (int j = 0; j < kSubBlocks; ++j) {
      const __m256i scale =
          _mm256_cvtepi8_epi16(Load128(super.scales[j][8 * half]));
      const __m256i pair = Broadcast(rows.half_sums[at + j * rows.height]);
      other = _mm256_add_epi32(other, _mm256_madd_epi16(scale, pair));
    }
    sums = _mm256_sub_epi32(sums, _mm256_slli_epi32(other, 5));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums),
                           _mm256_mul_ps(Halves(super.d + 8 * half), da), f);
  }
}

template <typename Super, int kRows, int kHalves>
inline void KHalves(const TileArgs& args, int half) {
  const Super* super = reinterpret_cast<const Super*>(args.panel);
  for (int64_t s = 0; s < args.groups / kSubBlocks; ++s, ++super) {
    const int64_t at = s * kSubBlocks * args.rows.height;
    __m256i sums[kRows][kHalves];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) sums[m][h] = _mm256_setzero_si256();
    }
    for (int j = 0; j < kSubBlocks; ++j) {
      if (half == 0) {
        constexpr int kBytes = sizeof(Super) / kSubBlocks;
        const char* ahead =
            reinterpret_cast<const char*>(super) + kAheadBytes + j * kBytes;
#pragma GCC unroll 8
        for (int i = 0; i < kBytes; i += 64) {
          _mm_prefetch(ahead + i, _MM_HINT_T0);
        }
      }
      AddSubBlock(
          *super, j, half,
          args.rows.codes + (at + j * args.rows.height) * kGroupElements, sums);
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        float* f = args.out + m * kPanelColumns + 8 * (half + h);
        _mm256_store_ps(f, Fold(*super, half + h, sums[m][h], args.rows, at + m,
                                _mm256_load_ps(f)));
      }
    }
  }
}

template <typename Super, int kRows>
void KTile(const TileArgs& args) {
  for (int i = 0; i < 2 * kRows; ++i) {
    _mm256_store_ps(args.out + 8 * i, _mm256_setzero_ps());
  }
  if constexpr (kRows <= 2) {
    KHalves<Super, kRows, 2>(args, 0);
  } else {
    KHalves<Super, kRows, 1>(args, 0);
    KHalves<Super, kRows, 1>(args, 1);
  }
}

template <typename Super>
constexpr TileSet KTiles() {
  return {.max_rows = 4,
          .tile = {{KTile<Super, 1>},
                   {KTile<Super, 2>},
                   {KTile<Super, 3>},
                   {KTile<Super, 4>}}};
}

}  // namespace

const TileSet kKTilesAvx2[3] = {KTiles<PackedQ4_K>(), KTiles<PackedQ5_K>(),
                                KTiles<PackedQ6_K>()};

}  // namespace sluice::kernels
