#include <cmath>

#include "kernels/cpu/matmul_tiles.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/quant/bf16.h"
#include "kernels/quant/f16.h"

// The definition of every product's bits: one row by one panel, each output
// one chain over ascending k.

namespace sluice::kernels {
namespace {

int CodeAt(const PackedQ8_0& group, int c, int k) {
  return static_cast<int8_t>(group.codes[k / 4][4 * c + k % 4]);
}
int CodeAt(const PackedQ4_0& group, int c, int k) {
  return (group.codes[k / 8][4 * c + k % 4] >> (k / 4 % 2 * 4) & 15) - 8;
}
int CodeAt(const PackedQ4_1& group, int c, int k) {
  return group.codes[k / 8][4 * c + k % 4] >> (k / 4 % 2 * 4) & 15;
}
// With the fifth bit above the nibble.
template <typename Group>
int FiveBitsAt(const Group& group, int c, int k) {
  const int nibble = group.codes[k / 8][4 * c + k % 4] >> (k / 4 % 2 * 4) & 15;
  return nibble | (group.high[4 * c + k % 4] >> (k / 4) & 1) << 4;
}
int CodeAt(const PackedQ5_0& group, int c, int k) {
  return FiveBitsAt(group, c, k) - 16;
}
int CodeAt(const PackedQ5_1& group, int c, int k) {
  return FiveBitsAt(group, c, k);
}

// Numerics section 3.
template <typename Group>
void Int8Tile(const TileArgs& args) {
  const Group* groups = reinterpret_cast<const Group*>(args.panel);
  float f[kPanelColumns] = {};
  for (int64_t g = 0; g < args.groups; ++g) {
    const int64_t at = g * args.rows.height;
    const int8_t* q = args.rows.codes + at * kGroupElements;
    for (int c = 0; c < kPanelColumns; ++c) {
      int32_t sum = 0;
      for (int k = 0; k < kGroupElements; ++k) {
        sum += CodeAt(groups[g], c, k) * q[k];
      }
      const float scale = F16ToF32(groups[g].scale[c]) * args.rows.scale[at];
      f[c] = std::fma(static_cast<float>(sum), scale, f[c]);
      if constexpr (requires { groups[g].minimum; }) {
        f[c] = std::fma(F16ToF32(groups[g].minimum[c]),
                        args.rows.scaled_sum[at], f[c]);
      }
    }
  }
  for (int c = 0; c < kPanelColumns; ++c) args.out[c] = f[c];
}

// Order t32, numerics section 5.
void Bf16Tile(const TileArgs& args) {
  const PackedBf16* groups = reinterpret_cast<const PackedBf16*>(args.panel);
  for (int c = 0; c < kPanelColumns; ++c) {
    float sum = 0;
    for (int64_t g = 0; g < args.groups; ++g) {
      const float* even =
          args.rows.values + g * args.rows.height * kGroupElements;
      const float* odd = even + 16;
      float e = 0;
      float o = 0;
      for (int r = 0; r < 16; ++r) {
        e = std::fma(even[r], Bf16ToF32(groups[g].values[r][c][0]), e);
        o = std::fma(odd[r], Bf16ToF32(groups[g].values[r][c][1]), o);
      }
      sum = sum + (e + o);
    }
    args.out[c] = sum;
  }
}

float ValueAt(const PackedF32& group, int k, int c) {
  return group.values[k][c];
}
float ValueAt(const PackedF16& group, int k, int c) {
  return F16ToF32(group.values[k][c]);
}

// Numerics section 6.
template <typename Group>
void F32Tile(const TileArgs& args) {
  const Group* groups = reinterpret_cast<const Group*>(args.panel);
  float f[kPanelColumns] = {};
  for (int64_t g = 0; g < args.groups; ++g) {
    const float* x = args.rows.values + g * args.rows.height * kGroupElements;
    for (int k = 0; k < kGroupElements; ++k) {
      for (int c = 0; c < kPanelColumns; ++c) {
        f[c] = std::fma(x[k], ValueAt(groups[g], k, c), f[c]);
      }
    }
  }
  for (int c = 0; c < kPanelColumns; ++c) args.out[c] = f[c];
}

constexpr TileSet OneTile(TileFn fn) { return {.max_rows = 1, .tile = {{fn}}}; }

constexpr TileSet kF32 = OneTile(F32Tile<PackedF32>);
constexpr TileSet kF16 = OneTile(F32Tile<PackedF16>);
constexpr TileSet kBf16 = OneTile(Bf16Tile);
constexpr TileSet kQ8_0 = OneTile(Int8Tile<PackedQ8_0>);
constexpr TileSet kQ4_0 = OneTile(Int8Tile<PackedQ4_0>);
constexpr TileSet kQ4_1 = OneTile(Int8Tile<PackedQ4_1>);
constexpr TileSet kQ5_0 = OneTile(Int8Tile<PackedQ5_0>);
constexpr TileSet kQ5_1 = OneTile(Int8Tile<PackedQ5_1>);

constexpr MatmulTiles kTiles = {
    {&kF32, &kF16, &kBf16, &kQ8_0, &kQ4_0, &kQ4_1, &kQ5_0, &kQ5_1,
     &kKTilesPortable[0], &kKTilesPortable[1], &kKTilesPortable[2]},
    &kPackPortable};

}  // namespace

void MatmulPortable(const OpContext& context, const MatmulArgs& args) {
  RunMatmul(context, args, kTiles);
}

}  // namespace sluice::kernels
