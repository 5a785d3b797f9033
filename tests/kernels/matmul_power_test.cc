// The comparisons of matmul_test must be able to see the mistakes that the
// numerics forbid. Each is made here in scalar code beside the right order:
// the right one equals the kernels on every input, the wrong one must not.

#include <immintrin.h>

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant/bf16.h"
#include "kernels/quant/f16.h"
#include "tests/kernels/matmul_cases.h"

namespace sluice::kernels {
namespace {

enum class Variant { kRight, kMulThenAdd, kNoFlushToZero, kOtherOrder };

float Step(Variant variant, float a, float b, float sum) {
  if (variant == Variant::kMulThenAdd) return a * b + sum;
  return std::fma(a, b, sum);
}

// Numerics sections 2 and 3 for one row and one stored Q4_1 row.
// kOtherOrder: groups descending.
__attribute__((noinline)) float ScalarQ4_1(Variant variant, const float* x,
                                           const uint8_t* row, int64_t k) {
  float f = 0;
  for (int64_t i = 0; i < k / 32; ++i) {
    const int64_t g = variant == Variant::kOtherOrder ? k / 32 - 1 - i : i;
    const uint8_t* block = row + 20 * g;
    float amax = 0;
    for (int j = 0; j < 32; ++j)
      amax = std::max(amax, std::fabs(x[32 * g + j]));
    const bool zero = !(amax >= 0x1p-100f);
    const float d = zero ? 0 : amax / 127;
    const float inverse = zero ? 0 : 127 / amax;
    int32_t sum = 0;
    int32_t code_sum = 0;
    for (int j = 0; j < 32; ++j) {
      const int32_t q =
          static_cast<int32_t>(std::nearbyint(x[32 * g + j] * inverse));
      const uint8_t byte = block[4 + j % 16];
      sum += q * (j < 16 ? byte & 15 : byte >> 4);
      code_sum += q;
    }
    uint16_t halves[2];
    std::memcpy(halves, block, sizeof(halves));
    const float s = F16ToF32(halves[0]) * d;
    f = Step(variant, static_cast<float>(sum), s, f);
    f = Step(variant, F16ToF32(halves[1]), d * static_cast<float>(code_sum), f);
  }
  return f;
}

// Numerics section 5. kOtherOrder: the pair order of vdpbf16ps.
__attribute__((noinline)) float ScalarBf16(Variant variant, const float* x,
                                           const uint8_t* row, int64_t k) {
  const auto a = [x](int64_t i) { return Bf16ToF32(F32ToBf16(x[i])); };
  const auto w = [row](int64_t i) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * i, sizeof(bits));
    return Bf16ToF32(bits);
  };
  float f = 0;
  if (variant == Variant::kOtherOrder) {
    for (int64_t i = 0; i < k; i += 2) {
      f = std::fma(a(i + 1), w(i + 1), f);
      f = std::fma(a(i), w(i), f);
    }
    return f;
  }
  for (int64_t g = 0; g < k; g += 32) {
    float e = 0;
    float o = 0;
    for (int64_t i = g; i < g + 32; i += 2) {
      e = Step(variant, a(i), w(i), e);
      o = Step(variant, a(i + 1), w(i + 1), o);
    }
    f = f + (e + o);
  }
  return f;
}

// Numerics section 6. kOtherOrder: k descending.
__attribute__((noinline)) float ScalarF32(Variant variant, const float* x,
                                          const uint8_t* row, int64_t k) {
  float f = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int64_t at = variant == Variant::kOtherOrder ? k - 1 - i : i;
    float w;
    std::memcpy(&w, row + 4 * at, sizeof(w));
    f = Step(variant, x[at], w, f);
  }
  return f;
}

using ScalarFn = float (*)(Variant, const float*, const uint8_t*, int64_t);

// Results of `variant` that differ from the widest level's, over the inputs of
// `kind`: of enough rows for its every kernel.
int64_t Different(WeightFormat format, ScalarFn scalar, Variant variant,
                  VectorKind kind) {
  constexpr int64_t kRows = 24;
  constexpr int64_t kN = 32;
  constexpr int64_t kK = 256;
  ThreadPool pool(1);
  VectorSource source(7);
  const Packed w = MakeWeights(
      {&pool}, {.format = format, .kind = kind, .rows = kN, .k = kK}, source);
  std::vector<float> x(kRows * kK);
  source.FillActivations(kind, absl::MakeSpan(x));
  const Isa isa = AmxRuns() ? Isa::kAmx : DetectIsa();
  const Level& widest = kAllLevels[static_cast<int>(isa)];
  const std::vector<float> got =
      Multiply({&pool}, widest, x.data(), kRows, w.matrix);
  const int64_t row_bytes = StoredRowBytes(format, kK);
  const unsigned before = _mm_getcsr();
  _mm_setcsr(variant == Variant::kNoFlushToZero ? 0x1f80 : 0x9fc0);
  int64_t different = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t j = 0; j < kN; ++j) {
      const float value =
          scalar(variant, &x[r * kK], &w.stored[j * row_bytes], kK);
      different += SameBits(value, got[r * kN + j]) ? 0 : 1;
    }
  }
  _mm_setcsr(before);
  return different;
}

struct Case {
  WeightFormat format;
  ScalarFn scalar;
};
const Case kCases[] = {{WeightFormat::kQ4_1, ScalarQ4_1},
                       {WeightFormat::kBF16, ScalarBf16},
                       {WeightFormat::kF32, ScalarF32}};

TEST(MatmulPower, TheRightOrderEqualsTheKernels) {
  if (DetectIsa() == Isa::kPortable) GTEST_SKIP() << "no FMA3";
  for (const Case& c : kCases) {
    for (int kind = 0; kind < kNumVectorKinds; ++kind) {
      EXPECT_EQ(Different(c.format, c.scalar, Variant::kRight,
                          static_cast<VectorKind>(kind)),
                0)
          << Name(c.format) << " kind " << kind;
    }
  }
}

TEST(MatmulPower, AnotherOrderIsSeen) {
  for (const Case& c : kCases) {
    EXPECT_GT(
        Different(c.format, c.scalar, Variant::kOtherOrder, VectorKind::kUnit),
        0)
        << Name(c.format);
  }
}

// bf16 products are exact in f32: only those that underflow tell.
TEST(MatmulPower, MulThenAddIsSeen) {
  EXPECT_GT(Different(WeightFormat::kQ4_1, ScalarQ4_1, Variant::kMulThenAdd,
                      VectorKind::kUnit),
            0);
  EXPECT_GT(Different(WeightFormat::kF32, ScalarF32, Variant::kMulThenAdd,
                      VectorKind::kUnit),
            0);
  EXPECT_GT(Different(WeightFormat::kBF16, ScalarBf16, Variant::kMulThenAdd,
                      VectorKind::kNearUnderflow),
            0);
}

TEST(MatmulPower, MissingFlushToZeroIsSeen) {
  EXPECT_GT(Different(WeightFormat::kQ4_1, ScalarQ4_1, Variant::kNoFlushToZero,
                      VectorKind::kThreshold),
            0);
  EXPECT_GT(Different(WeightFormat::kBF16, ScalarBf16, Variant::kNoFlushToZero,
                      VectorKind::kNearUnderflow),
            0);
  EXPECT_GT(Different(WeightFormat::kF32, ScalarF32, Variant::kNoFlushToZero,
                      VectorKind::kSubnormal),
            0);
}

}  // namespace
}  // namespace sluice::kernels
