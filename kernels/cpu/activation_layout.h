#ifndef KERNELS_CPU_ACTIVATION_LAYOUT_H_
#define KERNELS_CPU_ACTIVATION_LAYOUT_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/row_math.h"
#include "kernels/matmul.h"

namespace sluice::kernels {

// Byte order of packed activations. Rows come in blocks of 16 (an AMX A tile);
// the last block holds only the rows it has, so that one row is contiguous.
// A block of `height` rows is [k / 32][height][32]:
//   kInt8Group32  s8 codes; then, each 64-byte aligned and in the order
//                 [block][k / 32][height]: f32 scale d, f32 t = d * S, s32
//                 -128 * S, where S is the sum of the group's codes
//   kInt8Group256 s8 codes; then in the same way f32 d of the row's 256; two
//   s16
//                 sums, of the first and the last 16 codes of a group; two s16
//                 sums of all 32, of an even group and the one after it
//   kBF16         f32 holding the rounded values, the 16 even of k before the
//                 16 odd: the two chains of order t32 (numerics section 5)
//                 Then, 64-byte aligned, u32 [block][k / 32][height][16]: the
//                 same as pairs of two members of a chain, the earlier one in
//                 the high half, 8 of the even chain before 8 of the odd one
//   kF32          f32
// Last, 64-byte aligned, come rows of AMX A tiles where the above holds none:
//   kInt8Group256 s8 [block][k / 64][height][64], the codes again
//   kBF16         u16 [block][k / 32][height][32], the values in order of k
// (a kInt8Group32 tile holds the 32 of a group, and its codes lie so).
inline constexpr int64_t kBlockRows = 16;

inline int64_t AlignTo64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

inline bool HasCodes(ActivationKind kind) {
  return kind == ActivationKind::kInt8Group32 ||
         kind == ActivationKind::kInt8Group256;
}

// Where row block `block` starts. A row's group g lies at (g * height + row in
// block) * 32 elements, and its scales at that without the 32.
struct ActivationBlock {
  int64_t height = 0;
  int8_t* codes = nullptr;             // of both kInt8 kinds
  float* scale = nullptr;              // d, likewise
  float* scaled_sum = nullptr;         // t; kInt8Group32 only
  int32_t* minus_128_sum = nullptr;    // likewise
  int16_t (*half_sums)[2] = nullptr;   // kInt8Group256 only
  int16_t (*pair_sums)[2] = nullptr;   // likewise, at even groups
  float* values = nullptr;             // kBF16, kF32 only
  uint32_t (*pairs)[16] = nullptr;     // kBF16 only
  uint8_t (*tile_rows)[64] = nullptr;  // kInt8Group256, kBF16 only
};

inline ActivationBlock BlockAt(const Activations& a, int64_t block) {
  const int64_t groups = NumGroups(a.k);
  const int64_t first = block * kBlockRows * groups;
  ActivationBlock result = {
      .height = std::min(kBlockRows, a.rows - block * kBlockRows)};
  if (!HasCodes(a.kind)) {
    result.values = reinterpret_cast<float*>(a.bytes) + first * kGroupElements;
    if (a.kind == ActivationKind::kBF16) {
      uint8_t* pairs =
          a.bytes + AlignTo64(a.rows * groups * 4 * kGroupElements);
      result.pairs = reinterpret_cast<uint32_t(*)[16]>(pairs) + first;
      result.tile_rows = reinterpret_cast<uint8_t(*)[64]>(
          pairs + (a.rows * groups + first) * 64);
    }
    return result;
  }
  const int64_t section = AlignTo64(a.rows * groups * 4);
  uint8_t* scales = a.bytes + AlignTo64(a.rows * groups * kGroupElements);
  result.codes = reinterpret_cast<int8_t*>(a.bytes) + first * kGroupElements;
  result.scale = reinterpret_cast<float*>(scales) + first;
  if (a.kind == ActivationKind::kInt8Group256) {
    result.half_sums =
        reinterpret_cast<int16_t(*)[2]>(scales + section) + first;
    result.pair_sums =
        reinterpret_cast<int16_t(*)[2]>(scales + 2 * section) + first;
    result.tile_rows =
        reinterpret_cast<uint8_t(*)[64]>(scales + 3 * section) + first / 2;
    return result;
  }
  result.scaled_sum = reinterpret_cast<float*>(scales + section) + first;
  result.minus_128_sum =
      reinterpret_cast<int32_t*>(scales + 2 * section) + first;
  return result;
}

// One group of one row to pack: `count` values of x (the rest of the 32 is
// zero) into element `at` = g * height + row in block. Of 256 values, the first
// of eight such elements, each `height` after the last.
struct PackGroup {
  const float* x = nullptr;
  int64_t count = 0;
  int64_t at = 0;
};
using PackGroupFn = void (*)(const PackGroup&, const ActivationBlock&);

// What a level packs rows with. `full` has one per ActivationKind, in its
// order; full groups have 32 values, or 256.
struct PackFns {
  PackGroupFn full[4];
  const RowMath* math;
};
extern const PackFns kPackPortable;
extern const PackFns kPackAvx2;
extern const PackFns kPackAvx512;

// One call of pack_activations cut into pieces that any thread may take.
// Everything is borrowed.
class RowPacker {
 public:
  RowPacker(const PackActivationsArgs& args, const PackFns& fns);

  int64_t pieces() const { return pieces_; }
  // So little that other threads would come too late to help.
  bool small() const { return small_; }
  // On a compute thread (its float mode); `portable` takes the short groups.
  void Pack(int64_t piece) const;
  // All of it, on any thread.
  void PackAll() const;

 private:
  void PackRow(int64_t row, int64_t begin, int64_t end) const;

  const PackActivationsArgs& args_;
  const PackFns& fns_;
  int64_t group_elements_ = 0;
  int64_t groups_ = 0;        // of a row
  int64_t piece_groups_ = 0;  // of all rows in memory order; whole rows when
                              // they are normalised
  int64_t pieces_ = 0;
  bool small_ = true;
};

// Packs all rows, split over the pool.
void RunPackActivations(const OpContext& context,
                        const PackActivationsArgs& args, const PackFns& fns);

// Packs columns [begin, end) of the rows of one block of `out` from y, which
// holds just these. `begin` starts a group, `end` ends one or the row.
struct PackColumnsArgs {
  MatrixView<float> y;
  Activations out;
  int64_t block = 0;
  int64_t begin = 0;
  int64_t end = 0;
};
void PackColumns(const PackColumnsArgs& args, const PackFns& fns);

// Elements of a group that is scaled as one.
inline int64_t ScaledElements(ActivationKind kind) {
  return kind == ActivationKind::kInt8Group256 ? kSuperElements
                                               : kGroupElements;
}

// Fills pair_sums of the eight groups of a super-block from half_sums.
void PairSums(const PackGroup& group, const ActivationBlock& block);

// Copies the codes of a super-block to tile_rows.
void TileRows(const PackGroup& group, const ActivationBlock& block);

// The defining scalar code of one group of 1 .. 32 values, or of 256.
void PackGroupPortable(ActivationKind kind, const PackGroup& group,
                       const ActivationBlock& block);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ACTIVATION_LAYOUT_H_
