#ifndef KERNELS_CPU_PACKED_LAYOUT_H_
#define KERNELS_CPU_PACKED_LAYOUT_H_

#include <cstdint>

#include "kernels/packed_matrix.h"

namespace sluice::kernels {

// Byte order of a packed weight matrix (kernels/README.md draws it). A panel
// is 16 consecutive rows n; it is a run of groups, one per 32 of k, ascending.
// A line is 64 bytes: the zmm of a VNNI path, a row of an AMX B tile. Panels
// follow each other without gaps.
inline constexpr int64_t kPanelColumns = 16;
inline constexpr int64_t kGroupElements = 32;

// Line i holds k 4i .. 4i + 3 of column c in its bytes 4c .. 4c + 3.
struct PackedQ8_0 {
  uint8_t codes[8][64];  // s8
  uint16_t scale[16];    // f16, per column
};

// Line i holds k 8i .. 8i + 3 of column c in the low nibbles of its bytes
// 4c .. 4c + 3, and k 8i + 4 .. 8i + 7 in the high ones.
struct PackedQ4_0 {
  uint8_t codes[4][64];  // value + 8
  uint16_t scale[16];
};

struct PackedQ4_1 {
  uint8_t codes[4][64];
  uint16_t scale[16];
  uint16_t minimum[16];
};

// Bit i of byte 4c + j of `high` is the fifth bit of k 4i + j of column c.
struct PackedQ5_0 {
  uint8_t codes[4][64];  // value + 16
  uint8_t high[64];
  uint16_t scale[16];
};

struct PackedQ5_1 {
  uint8_t codes[4][64];
  uint8_t high[64];
  uint16_t scale[16];
  uint16_t minimum[16];
};

// The K formats come in super-blocks of 256 of k, as eight sub-blocks of 32
// whose codes lie as those of a group. Sub-scales are per column; two that are
// multiplied together with a pair of sums lie side by side.
struct PackedQ4_K {
  uint8_t codes[8][4][64];
  uint8_t scales[8][16];
  uint8_t minima[4][16][2];  // [sub-block / 2][column][sub-block % 2]
  uint16_t d[16];            // f16, as the next
  uint16_t dmin[16];
};

struct PackedQ5_K {
  uint8_t codes[8][4][64];
  uint8_t high[8][64];  // as PackedQ5_0's
  uint8_t scales[8][16];
  uint8_t minima[4][16][2];
  uint16_t d[16];
  uint16_t dmin[16];
};

// Bits 2r and 2r + 1 of byte 4c + j of high[b][i] are bits 4 and 5 of k
// 16i + 4r + j of column c of sub-block b.
struct PackedQ6_K {
  uint8_t codes[8][4][64];  // value + 32
  uint8_t high[8][2][64];
  int8_t scales[8][16][2];  // [sub-block][column][half of 16]
  uint16_t d[16];
};

// Line i holds k 2i and 2i + 1 of column c at [c][0] and [c][1].
struct PackedBf16 {
  uint16_t values[16][16][2];
};

// [k][column].
struct PackedF16 {
  uint16_t values[32][16];
};
struct PackedF32 {
  float values[32][16];
};

inline constexpr int64_t kSubBlocks = 8;
inline constexpr int64_t kSuperElements = kSubBlocks * kGroupElements;

static_assert(sizeof(PackedQ5_0) == 352 && sizeof(PackedQ5_1) == 384 &&
              sizeof(PackedQ4_K) == 2368 && sizeof(PackedQ5_K) == 2880 &&
              sizeof(PackedQ6_K) == 3360);
static_assert(sizeof(PackedQ8_0) == 544 && sizeof(PackedQ4_0) == 288 &&
              sizeof(PackedQ4_1) == 320 && sizeof(PackedBf16) == 1024 &&
              sizeof(PackedF16) == 1024 && sizeof(PackedF32) == 2048);

// Bytes of 32 of k; of a K format a whole number of these is a super-block.
inline constexpr int64_t PackedGroupBytes(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return sizeof(PackedF32);
    case WeightFormat::kF16:
      return sizeof(PackedF16);
    case WeightFormat::kBF16:
      return sizeof(PackedBf16);
    case WeightFormat::kQ8_0:
      return sizeof(PackedQ8_0);
    case WeightFormat::kQ4_0:
      return sizeof(PackedQ4_0);
    case WeightFormat::kQ4_1:
      return sizeof(PackedQ4_1);
    case WeightFormat::kQ5_0:
      return sizeof(PackedQ5_0);
    case WeightFormat::kQ5_1:
      return sizeof(PackedQ5_1);
    case WeightFormat::kQ4_K:
      return sizeof(PackedQ4_K) / kSubBlocks;
    case WeightFormat::kQ5_K:
      return sizeof(PackedQ5_K) / kSubBlocks;
    case WeightFormat::kQ6_K:
      return sizeof(PackedQ6_K) / kSubBlocks;
  }
  return 0;
}

inline constexpr int64_t NumGroups(int64_t k) {
  return (k + kGroupElements - 1) / kGroupElements;
}
inline constexpr int64_t NumPanels(int64_t n) {
  return (n + kPanelColumns - 1) / kPanelColumns;
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_PACKED_LAYOUT_H_
