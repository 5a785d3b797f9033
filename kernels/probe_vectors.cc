#include "kernels/probe_vectors.h"

#include <cstring>

#include "kernels/quant/f16.h"

namespace sluice::kernels {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The sign and fraction of `random` with a biased exponent in [low, high].
float WithExponent(uint32_t random, uint32_t low, uint32_t high) {
  const uint32_t exponent = low + (random >> 8) % (high - low + 1);
  return FromBits((random & 0x80000000) | exponent << 23 |
                  (random * 2654435761u >> 9));
}

constexpr uint16_t kLargestHalf = 0x7bff;
constexpr uint16_t kInfiniteHalf = 0x7c00;

}  // namespace

// SplitMix64.
uint32_t VectorSource::Bits() {
  state_ += 0x9e3779b97f4a7c15;
  uint64_t z = state_;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return static_cast<uint32_t>(z >> 32);
}

float VectorSource::Unit() {
  int32_t sum = 0;  // of four uniform numbers of [-2^20, 2^20): exact in f32
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<int32_t>(Bits() >> 11) - (1 << 20);
  }
  return static_cast<float>(sum) * 0x1.bb67aep-21f;  // times sqrt(3) / 2^21
}

float VectorSource::Draw(VectorKind kind, int64_t index, bool is_weight) {
  const uint32_t random = Bits();
  switch (kind) {
    case VectorKind::kAnyFinite:
      return WithExponent(random, 0, 254);
    case VectorKind::kNearUnderflow:
      return is_weight ? WithExponent(random, 50, 68)
                       : WithExponent(random, 55, 66);
    case VectorKind::kCancelling:
      if (index % 2 == 1 && !is_weight) {
        return FromBits(ToBits(previous_) ^ 0x80000000 ^ (random & 3));
      }
      previous_ = is_weight ? WithExponent(random, 126, 126)
                            : WithExponent(random, 110, 140);
      return is_weight ? FromBits(ToBits(previous_) & 0x7fffffff) : previous_;
    case VectorKind::kOverflow:
      return WithExponent(random, 180, 200);
    case VectorKind::kSubnormal:
      return is_weight ? WithExponent(random, 120, 130)
                       : WithExponent(random, 0, 2);
    case VectorKind::kZeroGroups:
      return index / 32 % 4 == 3 ? Unit() : 0.0f;
    case VectorKind::kThreshold:
      // 2^-100 has exponent 27; a group's values share one of three scales.
      if (is_weight) return Unit();
      return WithExponent(random, 20,
                          26 + static_cast<uint32_t>(index / 32 % 3));
    case VectorKind::kUnit:
    case VectorKind::kExtremeScales:
    case VectorKind::kExtremeCodes:
      break;
  }
  return Unit();
}

void VectorSource::FillActivations(VectorKind kind, absl::Span<float> x) {
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = Draw(kind, static_cast<int64_t>(i), false);
  }
}

namespace {

// Where a stored block has its f16 scales.
struct HalvesOfBlock {
  int64_t at = 0;
  int count = 1;
};

HalvesOfBlock HalvesOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_1:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
      return {.count = 2};
    case WeightFormat::kQ6_K:
      return {.at = 208};
    default:
      return {};
  }
}

}  // namespace

uint16_t VectorSource::Half(VectorKind kind) {
  const uint32_t random = Bits();
  const uint16_t sign = static_cast<uint16_t>(random >> 16 & 0x8000);
  switch (kind) {
    case VectorKind::kExtremeCodes:
      return kLargestHalf;
    case VectorKind::kExtremeScales:
    case VectorKind::kAnyFinite:
      return static_cast<uint16_t>(random % kInfiniteHalf | sign);
    case VectorKind::kSubnormal:
    case VectorKind::kNearUnderflow:
    case VectorKind::kThreshold:
      return static_cast<uint16_t>(random % 0x1000 | sign);
    case VectorKind::kOverflow:
      return static_cast<uint16_t>(0x7000 + random % 0xc00);
    default:
      return static_cast<uint16_t>(0x2000 + random % 0x800);  // about 0.01
  }
}

uint8_t VectorSource::CodeByte(VectorKind kind) {
  const uint32_t random = Bits();
  if (kind == VectorKind::kExtremeCodes) {
    constexpr uint8_t kEnds[4] = {0x80, 0x00, 0xff, 0x7f};
    return kEnds[random % 4];
  }
  return static_cast<uint8_t>(random >> 24);
}

void VectorSource::FillWeights(const Weights& weights, uint8_t* bytes) {
  const int64_t elements = weights.rows * weights.k;
  if (BlockElements(weights.format) == 1) {
    for (int64_t i = 0; i < elements; ++i) {
      const float value = Draw(weights.kind, i, true);
      const uint32_t bits = ToBits(value);
      const uint16_t half = weights.kind == VectorKind::kUnit
                                ? F32ToF16(value)
                                : Half(VectorKind::kExtremeScales);
      const uint16_t high = static_cast<uint16_t>(bits >> 16);
      if (weights.format == WeightFormat::kF32) {
        std::memcpy(bytes + 4 * i, &bits, 4);
      } else {
        const bool is_f16 = weights.format == WeightFormat::kF16;
        std::memcpy(bytes + 2 * i, is_f16 ? &half : &high, 2);
      }
    }
    return;
  }
  const int64_t block_elements = BlockElements(weights.format);
  const int64_t block_bytes = StoredRowBytes(weights.format, block_elements);
  const HalvesOfBlock halves = HalvesOf(weights.format);
  for (int64_t b = 0; b < elements / block_elements; ++b) {
    uint8_t* block = bytes + b * block_bytes;
    uint16_t half[2] = {};
    for (int h = 0; h < halves.count; ++h) half[h] = Half(weights.kind);
    const int64_t end = halves.at + 2 * halves.count;
    for (int64_t i = 0; i < block_bytes; ++i) {
      if (i < halves.at || i >= end) block[i] = CodeByte(weights.kind);
    }
    std::memcpy(block + halves.at, half, static_cast<size_t>(2 * halves.count));
  }
}

}  // namespace sluice::kernels
