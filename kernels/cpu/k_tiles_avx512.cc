#include <immintrin.h>

#include <type_traits>

#include "kernels/cpu/code_lines_avx512.h"
#include "kernels/cpu/matmul_tiles.h"

// Numerics section 4 by VNNI. The float chain of a result moves once per 256
// of k, so it stays in the tile's buffer and leaves the registers to the
// integer sums. Loops over accumulators are unrolled by pragma, and no inline
// function of another header is called, as in matmul_avx512.cc.

namespace sluice::kernels {
namespace {

constexpr int kAheadBytes = 4096;

inline __m256i Load256(const void* bytes) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

// Line k (4 of k by 16 columns) of sub-block j as unsigned codes.
inline __m512i Line(const PackedQ4_K& super, int j, int k) {
  return Nibbles(super.codes[j], k);
}
inline __m512i Line(const PackedQ5_K& super, int j, int k) {
  return _mm512_or_si512(Nibbles(super.codes[j], k),
                         Plane(super.high[j], k, 1));
}
inline __m512i Line(const PackedQ6_K& super, int j, int k) {
  return _mm512_or_si512(Nibbles(super.codes[j], k),
                         Plane(super.high[j][k / 4], k % 4 * 2, 2));
}

// Sub-scale of lines 8 / kParts * part and on.
template <typename Super>
inline __m512i Scales(const Super& super, int j, int) {
  return _mm512_cvtepu8_epi32(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(super.scales[j])));
}
inline __m512i Scales(const PackedQ6_K& super, int j, int part) {
  const __m512i pairs = _mm512_cvtepi8_epi16(Load256(super.scales[j]));
  return _mm512_srai_epi32(part == 0 ? _mm512_slli_epi32(pairs, 16) : pairs,
                           16);
}

template <typename Super>
inline constexpr int kParts = requires(Super super) {
  super.dmin;
}
? 1 : 2;

// I += scale * sum of products, of one sub-block.
template <typename Super, int kRows, int kPanels>
inline void AddSubBlock(const Super* const (&supers)[kPanels], int j,
                        const int8_t* q, __m512i (&sums)[kRows][kPanels]) {
  constexpr int kLines = 8 / kParts<Super>;
#pragma GCC unroll 2
  for (int part = 0; part < kParts<Super>; ++part) {
    __m512i x[kRows][kPanels];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) x[m][p] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int i = 0; i < kLines; ++i) {
      const int k = part * kLines + i;
      __m512i line[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) line[p] = Line(*supers[p], j, k);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const __m512i a =
            _mm512_set1_epi32(Word(q + m * kGroupElements + 4 * k));
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          x[m][p] = _mm512_dpbusd_epi32(x[m][p], line[p], a);
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const __m512i scale = Scales(*supers[p], j, part);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        sums[m][p] =
            _mm512_add_epi32(sums[m][p], _mm512_mullo_epi32(x[m][p], scale));
      }
    }
  }
}

// f of one row and panel after the super-block whose first group is `at`.
template <typename Super>
inline __m512 Fold(const Super& super, __m512i sums,
                   const ActivationBlock& rows, int64_t at, __m512 f) {
  const __m512 da = _mm512_set1_ps(rows.scale[at]);
  __m512i other = _mm512_setzero_si512();
  if constexpr (kParts<Super> == 1) {
#pragma GCC unroll 4
    for (int i = 0; i < kSubBlocks / 2; ++i) {
      other = _mm512_dpwssd_epi32(
          other, _mm512_cvtepu8_epi16(Load256(super.minima[i])),
          _mm512_set1_epi32(Word(rows.pair_sums[at + 2 * i * rows.height])));
    }
    f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums),
                        _mm512_mul_ps(Halves(super.d), da), f);
    return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(other),
                            _mm512_mul_ps(Halves(super.dmin), da), f);
  } else {
    // The codes were taken 32 too high.
#pragma GCC unroll 8
    for (int j = 0; j < kSubBlocks; ++j) {
      other = _mm512_dpwssd_epi32(
          other, _mm512_cvtepi8_epi16(Load256(super.scales[j])),
          _mm512_set1_epi32(Word(rows.half_sums[at + j * rows.height])));
    }
    sums = _mm512_sub_epi32(sums, _mm512_slli_epi32(other, 5));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums),
                           _mm512_mul_ps(Halves(super.d), da), f);
  }
}

// Few rows wait for the weights: an eighth of a super-block at a time, into L2
// (code_lines_avx512.h).
template <typename Super>
inline void PrefetchAhead(const Super* super, int j) {
  constexpr int kBytes = sizeof(Super) / kSubBlocks;
  const char* at =
      reinterpret_cast<const char*>(super) + kAheadBytes + j * kBytes;
#pragma GCC unroll 8
  for (int i = 0; i < kBytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T1);
}

template <typename Super, int kRows, int kPanels>
void KTile(const TileArgs& args) {
  const Super* supers[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    supers[p] =
        reinterpret_cast<const Super*>(args.panel + p * args.panel_bytes);
  }
  for (int i = 0; i < kRows * kPanels; ++i) {
    _mm512_store_ps(args.out + i * kPanelColumns, _mm512_setzero_ps());
  }
  for (int64_t s = 0; s < args.groups / kSubBlocks; ++s) {
    const int64_t at = s * kSubBlocks * args.rows.height;
    __m512i sums[kRows][kPanels];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sums[m][p] = _mm512_setzero_si512();
    }
    for (int j = 0; j < kSubBlocks; ++j) {
      const int8_t* q =
          args.rows.codes + (at + j * args.rows.height) * kGroupElements;
      AddSubBlock(supers, j, q, sums);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        PrefetchAhead(supers[p], j);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        float* f = args.out + (m * kPanels + p) * kPanelColumns;
        _mm512_store_ps(f, Fold(*supers[p], sums[m][p], args.rows, at + m,
                                _mm512_load_ps(f)));
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) ++supers[p];
  }
}

// A super-block rewritten for many rows: a byte a code, and scales as they are
// multiplied.
constexpr int kLines = 8 * kSubBlocks;
struct Expanded4 {  // and 5
  uint8_t codes[kLines][64];
  int32_t scales[kSubBlocks][16];
  int16_t minima[kSubBlocks / 2][16][2];
  float d[16];
  float dmin[16];
};
// The codes are signed here and the activations unsigned, 128 too high: what
// that adds is the same for every row, and `start` takes it away.
struct Expanded6 {
  uint8_t codes[kLines][64];  // s8
  int32_t scales[2 * kSubBlocks][16];
  int32_t start[16];  // - 128 * sum of code * scale
  float d[16];
};
template <typename Super>
inline constexpr int kScaledLines = kLines * sizeof(Super::scales[0]) /
                                    sizeof(Super::scales);
template <typename Super>
using Expanded = std::conditional_t<kParts<Super> == 1, Expanded4, Expanded6>;

template <typename Super>
void Expand(const Super& super, Expanded4& out) {
  for (int j = 0; j < kSubBlocks; ++j) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      _mm512_store_si512(out.codes[8 * j + k], Line(super, j, k));
    }
    _mm512_store_si512(out.scales[j], Scales(super, j, 0));
  }
  for (int i = 0; i < kSubBlocks / 2; ++i) {
    _mm512_store_si512(out.minima[i],
                       _mm512_cvtepu8_epi16(Load256(super.minima[i])));
  }
  _mm512_store_ps(out.d, Halves(super.d));
  _mm512_store_ps(out.dmin, Halves(super.dmin));
}

void Expand(const PackedQ6_K& super, Expanded6& out) {
  const __m512i ones = _mm512_set1_epi8(1);
  const __m512i offset = _mm512_set1_epi8(32);
  __m512i sum = _mm512_setzero_si512();
  for (int j = 0; j < kSubBlocks; ++j) {
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      __m512i codes = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int k = 4 * part; k < 4 * part + 4; ++k) {
        const __m512i line = _mm512_sub_epi8(Line(super, j, k), offset);
        _mm512_store_si512(out.codes[8 * j + k], line);
        codes = _mm512_dpbusd_epi32(codes, ones, line);
      }
      const __m512i scale = Scales(super, j, part);
      _mm512_store_si512(out.scales[2 * j + part], scale);
      sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(codes, scale));
    }
  }
  _mm512_store_si512(out.start, _mm512_sub_epi32(_mm512_setzero_si512(),
                                                 _mm512_slli_epi32(sum, 7)));
  _mm512_store_ps(out.d, Halves(super.d));
}

template <typename Super>
void ExpandPanel(const uint8_t* panel, int64_t groups, uint8_t* out) {
  const Super* super = reinterpret_cast<const Super*>(panel);
  Expanded<Super>* to = reinterpret_cast<Expanded<Super>*>(out);
  for (int64_t s = 0; s < groups / kSubBlocks; ++s) Expand(super[s], to[s]);
}

inline __m512i StartOf(const Expanded4&) { return _mm512_setzero_si512(); }
inline __m512i StartOf(const Expanded6& super) {
  return _mm512_load_si512(super.start);
}
inline __m512i Multiply(const Expanded4*, __m512i sum, __m512i line,
                        int32_t codes) {
  return _mm512_dpbusd_epi32(sum, line, _mm512_set1_epi32(codes));
}
inline __m512i Multiply(const Expanded6*, __m512i sum, __m512i line,
                        int32_t codes) {
  return _mm512_dpbusd_epi32(
      sum, _mm512_xor_si512(_mm512_set1_epi32(codes), _mm512_set1_epi8(-128)),
      line);
}

// I += scale * sum of products, of one of all scales. `q` are the codes of
// the first row that it scales.
template <typename Super, int kRows, int kPanels>
inline void AddScaled(const Super* const (&supers)[kPanels], int scale,
                      const int8_t* q, __m512i (&sums)[kRows][kPanels]) {
  constexpr int kLines = kScaledLines<Super>;
  __m512i x[kRows][kPanels];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) x[m][p] = _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (int k = 0; k < kLines; ++k) {
    __m512i line[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      line[p] = _mm512_load_si512(supers[p]->codes[scale * kLines + k]);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const int32_t codes = Word(q + m * kGroupElements + 4 * k);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        x[m][p] = Multiply(supers[p], x[m][p], line[p], codes);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const __m512i factor = _mm512_load_si512(supers[p]->scales[scale]);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      sums[m][p] =
          _mm512_add_epi32(sums[m][p], _mm512_mullo_epi32(x[m][p], factor));
    }
  }
}

inline __m512 Fold(const Expanded4& super, __m512i sums,
                   const ActivationBlock& rows, int64_t at, __m512 f) {
  const __m512 da = _mm512_set1_ps(rows.scale[at]);
  __m512i minima = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int i = 0; i < kSubBlocks / 2; ++i) {
    minima = _mm512_dpwssd_epi32(
        minima, _mm512_load_si512(super.minima[i]),
        _mm512_set1_epi32(Word(rows.pair_sums[at + 2 * i * rows.height])));
  }
  f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums),
                      _mm512_mul_ps(_mm512_load_ps(super.d), da), f);
  return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima),
                          _mm512_mul_ps(_mm512_load_ps(super.dmin), da), f);
}
inline __m512 Fold(const Expanded6& super, __m512i sums,
                   const ActivationBlock& rows, int64_t at, __m512 f) {
  return _mm512_fmadd_ps(
      _mm512_cvtepi32_ps(sums),
      _mm512_mul_ps(_mm512_load_ps(super.d), _mm512_set1_ps(rows.scale[at])),
      f);
}

template <typename Super, int kRows, int kPanels>
void ExpandedTile(const TileArgs& args) {
  const ActivationBlock rows = args.rows;
  float* const out = args.out;
  const Super* supers[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    supers[p] =
        reinterpret_cast<const Super*>(args.panel + p * args.panel_bytes);
  }
  for (int64_t s = 0; s < args.groups / kSubBlocks; ++s) {
    const int64_t at = s * kSubBlocks * rows.height;
    __m512i sums[kRows][kPanels];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sums[m][p] = StartOf(*supers[p]);
    }
    // Not unrolled: GCC 12 would put the multiplications of several scales off
    // to the end, and spill what they wait for.
#pragma GCC unroll 1
    for (int i = 0; i < kLines / kScaledLines<Super>; ++i) {
      const int line = i * kScaledLines<Super>;
      AddScaled(supers, i,
                rows.codes + (at + line / 8 * rows.height) * kGroupElements +
                    line % 8 * 4,
                sums);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        float* f = out + (m * kPanels + p) * kPanelColumns;
        _mm512_store_ps(
            f, Fold(*supers[p], sums[m][p], rows, at + m, _mm512_load_ps(f)));
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) ++supers[p];
  }
}

template <typename Super>
constexpr ExpandedTiles ExpandedKTiles() {
  using To = Expanded<Super>;
  static_assert(sizeof(To) % 64 == 0);
  return {
      .expand = ExpandPanel<Super>,
      .group_bytes = sizeof(To) / kSubBlocks,
      .chunk_groups = kSubBlocks,
      // Measured: Q4_K and Q5_K unpack in few instructions.
      .min_rows = kParts<Super> == 1 ? 64 : 13,
      .tiles = {.max_rows = 6,
                .tile = {{ExpandedTile<To, 1, 1>, ExpandedTile<To, 1, 2>},
                         {ExpandedTile<To, 2, 1>, ExpandedTile<To, 2, 2>},
                         {ExpandedTile<To, 3, 1>, ExpandedTile<To, 3, 2>},
                         {ExpandedTile<To, 4, 1>, ExpandedTile<To, 4, 2>},
                         {ExpandedTile<To, 5, 1>, ExpandedTile<To, 5, 2>},
                         {ExpandedTile<To, 6, 1>, ExpandedTile<To, 6, 2>}}}};
}
template <typename Super>
constexpr ExpandedTiles kExpanded = ExpandedKTiles<Super>();

template <typename Super>
constexpr TileSet KTiles() {
  return {.max_rows = 6,
          .tile = {{KTile<Super, 1, 1>, KTile<Super, 1, 2>, KTile<Super, 1, 4>},
                   {KTile<Super, 2, 1>, KTile<Super, 2, 2>},
                   {KTile<Super, 3, 1>, KTile<Super, 3, 2>},
                   {KTile<Super, 4, 1>, KTile<Super, 4, 2>},
                   {KTile<Super, 5, 1>, KTile<Super, 5, 2>},
                   {KTile<Super, 6, 1>, KTile<Super, 6, 2>}},
          .expanded = &kExpanded<Super>};
}

}  // namespace

const TileSet kKTilesAvx512[3] = {KTiles<PackedQ4_K>(), KTiles<PackedQ5_K>(),
                                  KTiles<PackedQ6_K>()};

}  // namespace sluice::kernels
