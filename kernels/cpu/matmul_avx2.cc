#include <immintrin.h>

#include "kernels/cpu/code_lines_avx2.h"
#include "kernels/cpu/matmul_tiles.h"
#include "kernels/cpu/ops_avx2.h"

// A panel's line is two registers of 8 columns ("halves"); few rows take both
// in one pass over the weights, more rows one after the other, so that the
// accumulators fit 16 registers. Loops over accumulators are unrolled by
// pragma, and no inline function of another header is called, as in
// matmul_avx512.cc.

namespace sluice::kernels {
namespace {

constexpr int kAheadBytes = 2048;

template <int kBytes>
inline void PrefetchAhead(const void* group) {
  const char* at = static_cast<const char*>(group) + kAheadBytes;
#pragma GCC unroll 32
  for (int i = 0; i < kBytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
}

// Integer sums of one group: s8 weights as |w| times the activations with w's
// sign, which cannot saturate (at most 2 * 128 * 127).
template <int kRows, int kHalves>
inline void Sums(const PackedQ8_0& group, int half, const int8_t* q,
                 const int32_t*, __m256i (&x)[kRows][kHalves]) {
  const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) x[m][h] = _mm256_setzero_si256();
  }
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256i w = Load(group.codes[k] + (half + h) * 32);
      const __m256i magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        const __m256i a = Broadcast(q + m * kGroupElements + 4 * k);
        const __m256i pairs =
            _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(a, w));
        x[m][h] = _mm256_add_epi32(x[m][h], _mm256_madd_epi16(pairs, one));
      }
    }
  }
}

inline bool IsOffsetBy8(const PackedQ4_0*) { return true; }
inline bool IsOffsetBy8(const PackedQ4_1*) { return false; }

// Nibbles are unsigned; eight sums of at most 2 * 15 * 127 fit int16.
template <typename Nibbles, int kRows, int kHalves>
inline void Sums(const Nibbles& group, int half, const int8_t* q,
                 const int32_t* minus_128_sum, __m256i (&x)[kRows][kHalves]) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) x[m][h] = _mm256_setzero_si256();
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256i both = Load(group.codes[k] + (half + h) * 32);
      const __m256i w0 = _mm256_and_si256(both, low);
      const __m256i w1 = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        const int8_t* a = q + m * kGroupElements + 8 * k;
        x[m][h] = _mm256_add_epi16(
            x[m][h],
            _mm256_add_epi16(_mm256_maddubs_epi16(w0, Broadcast(a)),
                             _mm256_maddubs_epi16(w1, Broadcast(a + 4))));
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      x[m][h] = _mm256_madd_epi16(x[m][h], one);
      if (IsOffsetBy8(&group)) {
        x[m][h] = _mm256_add_epi32(
            x[m][h], _mm256_srai_epi32(_mm256_set1_epi32(minus_128_sum[m]), 4));
      }
    }
  }
}

inline bool IsOffsetBy16(const PackedQ5_0*) { return true; }
inline bool IsOffsetBy16(const PackedQ5_1*) { return false; }

// Line k of a group with a plane of fifth bits, as unsigned codes.
template <typename Group>
inline __m256i FiveBits(const Group& group, int k, int half) {
  return _mm256_or_si256(Nibbles(group.codes, k, half),
                         Plane(group.high + half * 32, k, 1));
}

// Four sums of at most 2 * 31 * 127 fit int16.
template <typename Group, int kRows, int kHalves>
requires requires(Group group) { group.high; }
inline void Sums(const Group& group, int half, const int8_t* q,
                 const int32_t* minus_128_sum, __m256i (&x)[kRows][kHalves]) {
  const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
    const __m256i start =
        IsOffsetBy16(&group)
            ? _mm256_srai_epi32(_mm256_set1_epi32(minus_128_sum[m]), 3)
            : _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) x[m][h] = start;
  }
#pragma GCC unroll 2
  for (int first = 0; first < 8; first += 4) {
    __m256i y[kRows][kHalves];
#pragma GCC unroll 4
    for (int k = first; k < first + 4; ++k) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const __m256i w = FiveBits(group, k, half + h);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          const __m256i product = _mm256_maddubs_epi16(
              w, Broadcast(q + m * kGroupElements + 4 * k));
          y[m][h] = k == first ? product : _mm256_add_epi16(y[m][h], product);
        }
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        x[m][h] = _mm256_add_epi32(x[m][h], _mm256_madd_epi16(y[m][h], one));
      }
    }
  }
}

template <int kRows, int kHalves>
inline void Zero(__m256 (&f)[kRows][kHalves]) {
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) f[m][h] = _mm256_setzero_ps();
  }
}

template <int kRows, int kHalves>
inline void StoreOut(const __m256 (&f)[kRows][kHalves], float* out) {
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      _mm256_store_ps(out + m * kPanelColumns + 8 * h, f[m][h]);
    }
  }
}

// Numerics section 3, columns 8 * half and on.
template <typename Group, int kRows, int kHalves>
inline void Int8Halves(const TileArgs& args, int half) {
  __m256 f[kRows][kHalves];
  Zero(f);
  const Group* group = reinterpret_cast<const Group*>(args.panel);
  for (int64_t g = 0; g < args.groups; ++g, ++group) {
    const int64_t at = g * args.rows.height;
    __m256i x[kRows][kHalves];
    Sums(*group, half, args.rows.codes + at * kGroupElements,
         args.rows.minus_128_sum + at, x);
    if (half == 0) PrefetchAhead<sizeof(Group)>(group);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256 dw = Halves(group->scale + 8 * (half + h));
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        const __m256 s =
            _mm256_mul_ps(dw, _mm256_set1_ps(args.rows.scale[at + m]));
        f[m][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(x[m][h]), s, f[m][h]);
        if constexpr (requires { group->minimum; }) {
          f[m][h] = _mm256_fmadd_ps(
              Halves(group->minimum + 8 * (half + h)),
              _mm256_set1_ps(args.rows.scaled_sum[at + m]), f[m][h]);
        }
      }
    }
  }
  StoreOut(f, args.out + 8 * half);
}

template <typename Group, int kRows>
void Int8Tile(const TileArgs& args) {
  if constexpr (kRows <= 2) {
    Int8Halves<Group, kRows, 2>(args, 0);
  } else {
    Int8Halves<Group, kRows, 1>(args, 0);
    Int8Halves<Group, kRows, 1>(args, 1);
  }
}

// Order t32, numerics section 5.
template <int kRows, int kHalves>
inline void Bf16Halves(const TileArgs& args, int half) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  __m256 f[kRows][kHalves];
  Zero(f);
  const PackedBf16* group = reinterpret_cast<const PackedBf16*>(args.panel);
  for (int64_t g = 0; g < args.groups; ++g, ++group) {
    const float* a = args.rows.values + g * args.rows.height * kGroupElements;
    __m256 e[kRows][kHalves];
    __m256 o[kRows][kHalves];
    Zero(e);
    Zero(o);
    if (half == 0) PrefetchAhead<sizeof(PackedBf16)>(group);
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const __m256i pair = Load(group->values[r][8 * (half + h)]);
        const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
        const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(pair, high));
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          const float* row = a + m * kGroupElements;
          e[m][h] = _mm256_fmadd_ps(even, _mm256_set1_ps(row[r]), e[m][h]);
          o[m][h] = _mm256_fmadd_ps(odd, _mm256_set1_ps(row[16 + r]), o[m][h]);
        }
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        f[m][h] = _mm256_add_ps(f[m][h], _mm256_add_ps(e[m][h], o[m][h]));
      }
    }
  }
  StoreOut(f, args.out + 8 * half);
}

template <int kRows>
void Bf16Tile(const TileArgs& args) {
  if constexpr (kRows <= 2) {
    Bf16Halves<kRows, 2>(args, 0);
  } else {
    Bf16Halves<kRows, 1>(args, 0);
    Bf16Halves<kRows, 1>(args, 1);
  }
}

inline __m256 ColumnsAt(const PackedF32* group, int k, int h) {
  return _mm256_loadu_ps(group->values[k] + 8 * h);
}
inline __m256 ColumnsAt(const PackedF16* group, int k, int h) {
  return Halves(group->values[k] + 8 * h);
}

// Numerics section 6: one chain over k.
template <typename Group, int kRows>
void F32Tile(const TileArgs& args) {
  __m256 f[kRows][2];
  Zero(f);
  const Group* group = reinterpret_cast<const Group*>(args.panel);
  for (int64_t g = 0; g < args.groups; ++g, ++group) {
    const float* a = args.rows.values + g * args.rows.height * kGroupElements;
    PrefetchAhead<sizeof(Group)>(group);
#pragma GCC unroll 4
    for (int k = 0; k < kGroupElements; ++k) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256 w = ColumnsAt(group, k, h);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          f[m][h] = _mm256_fmadd_ps(_mm256_set1_ps(a[m * kGroupElements + k]),
                                    w, f[m][h]);
        }
      }
    }
  }
  StoreOut(f, args.out);
}

template <typename Group>
constexpr TileSet Int8Tiles() {
  return {.max_rows = 4,
          .tile = {{Int8Tile<Group, 1>},
                   {Int8Tile<Group, 2>},
                   {Int8Tile<Group, 3>},
                   {Int8Tile<Group, 4>}}};
}

template <typename Group>
constexpr TileSet F32Tiles() {
  return {.max_rows = 4,
          .tile = {{F32Tile<Group, 1>},
                   {F32Tile<Group, 2>},
                   {F32Tile<Group, 3>},
                   {F32Tile<Group, 4>}}};
}

constexpr TileSet kF32 = F32Tiles<PackedF32>();
constexpr TileSet kF16 = F32Tiles<PackedF16>();
constexpr TileSet kBf16 = {
    .max_rows = 4,
    .tile = {{Bf16Tile<1>}, {Bf16Tile<2>}, {Bf16Tile<3>}, {Bf16Tile<4>}}};
constexpr TileSet kQ8_0 = Int8Tiles<PackedQ8_0>();
constexpr TileSet kQ4_0 = Int8Tiles<PackedQ4_0>();
constexpr TileSet kQ4_1 = Int8Tiles<PackedQ4_1>();
constexpr TileSet kQ5_0 = Int8Tiles<PackedQ5_0>();
constexpr TileSet kQ5_1 = Int8Tiles<PackedQ5_1>();

constexpr MatmulTiles kTiles = {
    {&kF32, &kF16, &kBf16, &kQ8_0, &kQ4_0, &kQ4_1, &kQ5_0, &kQ5_1,
     &kKTilesAvx2[0], &kKTilesAvx2[1], &kKTilesAvx2[2]},
    &kPackAvx2};

}  // namespace

void MatmulAvx2(const OpContext& context, const MatmulArgs& args) {
  RunMatmul(context, args, kTiles);
}

}  // namespace sluice::kernels
