#include "kernels/cpu/exp.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/work_split.h"
#include "kernels/op_table.h"
#include "tests/kernels/exp_lanes.h"

namespace sluice::kernels {
namespace {

using ArrayFn = void (*)(const float*, int64_t, float*);

// Levels above portable that this machine has.
template <typename Fn>
std::vector<Fn> VectorLevels(Fn avx2, Fn avx512) {
  std::vector<Fn> result;
  if (DetectIsa() >= Isa::kAvx2) result.push_back(avx2);
  if (DetectIsa() >= Isa::kAvx512) result.push_back(avx512);
  return result;
}

TEST(Exp, EdgesAndErrorBound) {
  const ComputeFloatMode mode;
  EXPECT_EQ(ExpNonPositive(0.0f), 1.0f);
  EXPECT_EQ(ExpNonPositive(-0.0f), 1.0f);
  EXPECT_EQ(ExpNonPositive(-86.5f), 0.0f);
  EXPECT_EQ(ExpNonPositive(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(ExpNonPositive(std::numeric_limits<float>::quiet_NaN()), 0.0f);
  double worst = 0;
  for (uint32_t bits = 0x80000000u; bits <= 0xc2ac0000u; bits += 610) {
    float x;
    std::memcpy(&x, &bits, 4);
    worst =
        std::max(worst, std::fabs(ExpNonPositive(x) / std::exp(double{x}) - 1));
  }
  EXPECT_LT(worst, 7.5e-8);
}

// Every 61st float of [-90, -0], with infinity and NaN among them.
TEST(Exp, EveryLevelHasTheSameBits) {
  const ComputeFloatMode mode;
  constexpr int64_t kBatch = 4096;
  std::vector<float> x(kBatch);
  std::vector<float> want(kBatch);
  std::vector<float> got(kBatch);
  int64_t compared = 0;
  for (uint32_t bits = 0x80000000u; bits < 0xc2b40000u; bits += 61 * kBatch) {
    for (int64_t i = 0; i < kBatch; ++i) {
      const uint32_t own = bits + 61 * static_cast<uint32_t>(i);
      std::memcpy(&x[i], &own, 4);
      if (i == 77) x[i] = -std::numeric_limits<float>::infinity();
      if (i == 78) x[i] = std::numeric_limits<float>::quiet_NaN();
      want[i] = ExpNonPositive(x[i]);
    }
    for (const ArrayFn exp : VectorLevels<ArrayFn>(ExpAvx2, ExpAvx512)) {
      exp(x.data(), kBatch, got.data());
      ASSERT_EQ(std::memcmp(got.data(), want.data(), kBatch * 4), 0) << bits;
    }
    compared += kBatch;
  }
  EXPECT_GT(compared, 18000000);
}

TEST(Fold, EveryLevelAddsInTheSameOrder) {
  using FoldFn = float (*)(const float*);
  const ComputeFloatMode mode;
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  int order_shows = 0;
  for (int i = 0; i < 20000; ++i) {
    float x[16];
    for (float& v : x) {
      v = normal(rng) * std::ldexp(1.0f, static_cast<int>(rng() % 20));
    }
    float lanes[16];
    std::memcpy(lanes, x, sizeof(x));
    const float want = FoldLanes(lanes);
    float sequential = 0;
    for (const float v : x) sequential += v;
    order_shows += sequential != want;
    for (const FoldFn fold : VectorLevels<FoldFn>(FoldAvx2, FoldAvx512)) {
      ASSERT_EQ(fold(x), want);
    }
  }
  // Another order of the sum would be seen.
  EXPECT_GT(order_shows, 1000);
}

TEST(RoundToBf16, EveryLevelRoundsAsTheScalar) {
  std::vector<float> x;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 4093) {
    const uint32_t own = static_cast<uint32_t>(bits);
    float value;
    std::memcpy(&value, &own, 4);
    x.push_back(value);
  }
  const uint32_t ties[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff,
                           0x007fffff, 0x80000001, 0x7f800001, 0xff800000};
  for (const uint32_t own : ties) {
    float value;
    std::memcpy(&value, &own, 4);
    x.push_back(value);
  }
  x.resize((x.size() + 15) / 16 * 16);
  std::vector<float> want;
  for (const float value : x) want.push_back(Bf16ToF32(F32ToBf16(value)));
  std::vector<float> got(x.size());
  for (const ArrayFn round : VectorLevels<ArrayFn>(RoundAvx2, RoundAvx512)) {
    round(x.data(), static_cast<int64_t>(x.size()), got.data());
    EXPECT_EQ(std::memcmp(got.data(), want.data(), x.size() * 4), 0);
  }
}

}  // namespace
}  // namespace sluice::kernels
