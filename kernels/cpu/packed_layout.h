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

static_assert(sizeof(PackedQ8_0) == 544 && sizeof(PackedQ4_0) == 288 &&
              sizeof(PackedQ4_1) == 320 && sizeof(PackedBf16) == 1024 &&
              sizeof(PackedF16) == 1024 && sizeof(PackedF32) == 2048);

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
