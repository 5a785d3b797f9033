#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/quant/bf16.h"

namespace sluice::kernels {
namespace {

uint32_t Magnitude(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7fffffff;
}

// Nearest even, by SSE2, which every x86-64 has. What is no code (an infinity
// times its zero inverse) becomes 0; the scale then is infinite, and the
// product no finite number.
int32_t Code(float x, float inverse) {
  const int32_t code = _mm_cvtss_si32(_mm_set_ss(x * inverse));
  return code < -127 ? 0 : code;
}

// Numerics section 2. The largest magnitude is found among the bits, where a
// NaN is above every number.
void PackInt8(const PackGroup& group, const ActivationBlock& block) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < group.count; ++i) {
    largest = std::max(largest, Magnitude(group.x[i]));
  }
  float amax;
  std::memcpy(&amax, &largest, sizeof(amax));
  const bool usable = amax >= 0x1p-100f;
  const float d = usable ? amax / 127.0f : 0.0f;
  const float inverse = usable ? 127.0f / amax : 0.0f;
  int8_t* codes = block.codes + group.at * kGroupElements;
  int32_t sum = 0;
  for (int64_t i = 0; i < kGroupElements; ++i) {
    int32_t code = 0;
    if (i < group.count && usable) code = Code(group.x[i], inverse);
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  block.scale[group.at] = d;
  block.scaled_sum[group.at] = d * static_cast<float>(sum);
  block.minus_128_sum[group.at] = -128 * sum;
}

void PackBf16(const PackGroup& group, const ActivationBlock& block) {
  float* values = block.values + group.at * kGroupElements;
  for (int64_t i = 0; i < kGroupElements; ++i) {
    const float x = i < group.count ? group.x[i] : 0.0f;
    values[i % 2 * 16 + i / 2] = Bf16ToF32(F32ToBf16(x));
  }
  for (int i = 0; i < 16; ++i) {
    uint32_t bits[2];
    std::memcpy(bits, values + 2 * i, sizeof(bits));
    block.pairs[group.at][i] = bits[0] | bits[1] >> 16;
  }
  for (int i = 0; i < 16; ++i) {
    uint32_t even;
    uint32_t odd;
    std::memcpy(&even, values + i, sizeof(even));
    std::memcpy(&odd, values + 16 + i, sizeof(odd));
    const uint32_t both = even >> 16 | odd;
    std::memcpy(block.tile_rows[group.at] + 4 * i, &both, sizeof(both));
  }
}

void PackF32(const PackGroup& group, const ActivationBlock& block) {
  float* values = block.values + group.at * kGroupElements;
  for (int64_t i = 0; i < kGroupElements; ++i) {
    values[i] = i < group.count ? group.x[i] : 0.0f;
  }
}

// As PackInt8(), with one scale for eight groups.
void PackInt8Super(const PackGroup& group, const ActivationBlock& block) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < kSuperElements; ++i) {
    largest = std::max(largest, Magnitude(group.x[i]));
  }
  float amax;
  std::memcpy(&amax, &largest, sizeof(amax));
  const bool usable = amax >= 0x1p-100f;
  const float d = usable ? amax / 127.0f : 0.0f;
  const float inverse = usable ? 127.0f / amax : 0.0f;
  for (int64_t j = 0; j < kSubBlocks; ++j) {
    const int64_t at = group.at + j * block.height;
    int8_t* codes = block.codes + at * kGroupElements;
    int32_t sums[2] = {};
    for (int64_t i = 0; i < kGroupElements; ++i) {
      const float x = group.x[j * kGroupElements + i];
      const int32_t code = usable ? Code(x, inverse) : 0;
      codes[i] = static_cast<int8_t>(code);
      sums[i / 16] += code;
    }
    block.scale[at] = d;
    block.half_sums[at][0] = static_cast<int16_t>(sums[0]);
    block.half_sums[at][1] = static_cast<int16_t>(sums[1]);
  }
  PairSums(group, block);
  TileRows(group, block);
}

}  // namespace

const PackFns kPackPortable = {{PackInt8, PackBf16, PackF32, PackInt8Super},
                               &kRowMathPortable};

void PairSums(const PackGroup& group, const ActivationBlock& block) {
  for (int64_t j = 0; j < kSubBlocks; ++j) {
    const int64_t at = group.at + j * block.height;
    const int64_t even = group.at + j / 2 * 2 * block.height;
    const int16_t* halves = block.half_sums[at];
    block.pair_sums[even][j % 2] = static_cast<int16_t>(halves[0] + halves[1]);
    if (j % 2 == 1) block.pair_sums[at][0] = block.pair_sums[at][1] = 0;
  }
}

void TileRows(const PackGroup& group, const ActivationBlock& block) {
  const int64_t row = group.at % block.height;
  const int64_t first = group.at / block.height / 2 * block.height + row;
  for (int64_t j = 0; j < kSubBlocks; ++j) {
    const int64_t at = group.at + j * block.height;
    std::memcpy(
        block.tile_rows[first + j / 2 * block.height] + j % 2 * kGroupElements,
        block.codes + at * kGroupElements, kGroupElements);
  }
}

void PackGroupPortable(ActivationKind kind, const PackGroup& group,
                       const ActivationBlock& block) {
  kPackPortable.full[static_cast<int>(kind)](group, block);
}

void PackActivationsPortable(const OpContext& context,
                             const PackActivationsArgs& args) {
  RunPackActivations(context, args, kPackPortable);
}

}  // namespace sluice::kernels
