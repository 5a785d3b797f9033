#include <cmath>

#include "kernels/cpu/matmul_tiles.h"
#include "kernels/quant/f16.h"

// The definition of the bits of products with K formats (numerics section 4):
// all that lies inside a super-block is exact in integers.

namespace sluice::kernels {
namespace {

int NibbleAt(const uint8_t (*codes)[64], int c, int k) {
  return codes[k / 8][4 * c + k % 4] >> (k / 4 % 2 * 4) & 15;
}

int CodeAt(const PackedQ4_K& super, int j, int c, int k) {
  return NibbleAt(super.codes[j], c, k);
}
int CodeAt(const PackedQ5_K& super, int j, int c, int k) {
  const int high = super.high[j][4 * c + k % 4] >> (k / 4) & 1;
  return NibbleAt(super.codes[j], c, k) | high << 4;
}
int CodeAt(const PackedQ6_K& super, int j, int c, int k) {
  const int high = super.high[j][k / 16][4 * c + k % 4] >> (k / 4 % 4 * 2) & 3;
  return (NibbleAt(super.codes[j], c, k) | high << 4) - 32;
}

template <typename Super>
int ScaleAt(const Super& super, int j, int c, int) {
  return super.scales[j][c];
}
int ScaleAt(const PackedQ6_K& super, int j, int c, int k) {
  return super.scales[j][c][k / 16];
}

// The two sums of one column over one super-block whose first group is `at`.
struct KSums {
  int32_t products = 0;  // I
  int32_t minima = 0;    // M
};

template <typename Super>
KSums SumSuper(const Super& super, int c, const ActivationBlock& rows,
               int64_t at) {
  KSums sums;
  for (int j = 0; j < kSubBlocks; ++j) {
    const int8_t* q = rows.codes + (at + j * rows.height) * kGroupElements;
    int32_t sum = 0;
    for (int k = 0; k < kGroupElements; ++k) {
      sums.products += ScaleAt(super, j, c, k) * CodeAt(super, j, c, k) * q[k];
      sum += q[k];
    }
    if constexpr (requires { super.minima; }) {
      sums.minima += super.minima[j / 2][c][j % 2] * sum;
    }
  }
  return sums;
}

template <typename Super>
void KTile(const TileArgs& args) {
  const Super* supers = reinterpret_cast<const Super*>(args.panel);
  float f[kPanelColumns] = {};
  for (int64_t s = 0; s < args.groups / kSubBlocks; ++s) {
    const int64_t at = s * kSubBlocks * args.rows.height;
    const float da = args.rows.scale[at];
    for (int c = 0; c < kPanelColumns; ++c) {
      const KSums sums = SumSuper(supers[s], c, args.rows, at);
      f[c] = std::fma(static_cast<float>(sums.products),
                      F16ToF32(supers[s].d[c]) * da, f[c]);
      if constexpr (requires { supers[s].dmin; }) {
        f[c] = std::fma(static_cast<float>(sums.minima),
                        -F16ToF32(supers[s].dmin[c]) * da, f[c]);
      }
    }
  }
  for (int c = 0; c < kPanelColumns; ++c) args.out[c] = f[c];
}

constexpr TileSet OneTile(TileFn fn) { return {.max_rows = 1, .tile = {{fn}}}; }

}  // namespace

const TileSet kKTilesPortable[3] = {OneTile(KTile<PackedQ4_K>),
                                    OneTile(KTile<PackedQ5_K>),
                                    OneTile(KTile<PackedQ6_K>)};

}  // namespace sluice::kernels
