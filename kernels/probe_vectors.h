#ifndef KERNELS_PROBE_VECTORS_H_
#define KERNELS_PROBE_VECTORS_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/packed_matrix.h"

namespace sluice::kernels {

// The inputs of the start-up probe and of the tests of equal bits: each kind
// makes another rounding or special case decide (CPU numerics section 12.1).
enum class VectorKind : uint8_t {
  kUnit,           // about normal, mean square 1
  kAnyFinite,      // every finite bit pattern
  kNearUnderflow,  // products around 2^-126
  kCancelling,     // neighbours of opposite sign and near magnitude
  kOverflow,       // products above the largest f32
  kSubnormal,      // inputs at and below the smallest normal number
  kExtremeScales,  // f16 scales of every size up to 65504, subnormal too
  kExtremeCodes,   // codes at the ends of their range
  kZeroGroups,     // most groups of 32 all zero
  kThreshold,      // group maxima just below and above 2^-100
};
inline constexpr int kNumVectorKinds = 10;

// The same numbers everywhere, by seed: integer arithmetic and exact scaling
// only. One thread at a time.
class VectorSource {
 public:
  explicit VectorSource(uint64_t seed) : state_(seed) {}

  uint32_t Bits();  // uniform
  float Unit();     // about normal (a sum of four uniform numbers)

  // Left operands of a product, or any op's input.
  void FillActivations(VectorKind kind, absl::Span<float> x);

  // `rows` stored rows of k elements: StoredRowBytes(format, k) each.
  struct Weights {
    WeightFormat format = WeightFormat::kF32;
    VectorKind kind = VectorKind::kUnit;
    int64_t rows = 0;
    int64_t k = 0;
  };
  void FillWeights(const Weights& weights, uint8_t* bytes);

 private:
  float Draw(VectorKind kind, int64_t index, bool is_weight);
  uint16_t Half(VectorKind kind);
  uint8_t CodeByte(VectorKind kind);

  uint64_t state_;
  float previous_ = 0;
};

}  // namespace sluice::kernels

#endif  // KERNELS_PROBE_VECTORS_H_
