#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/activation_layout.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels/matmul_cases.h"

namespace sluice::kernels {
namespace {

constexpr ActivationKind kKinds[] = {
    ActivationKind::kInt8Group32, ActivationKind::kBF16, ActivationKind::kF32,
    ActivationKind::kInt8Group256};

// Of k that share a scale, and must come together.
int64_t GroupOf(ActivationKind kind) {
  return kind == ActivationKind::kInt8Group256 ? 256 : 32;
}
bool Takes(ActivationKind kind, int64_t k) {
  return kind != ActivationKind::kInt8Group256 || k % 256 == 0;
}

AlignedBytes Pack(const Level& level, ThreadPool& pool, ActivationKind kind,
                  const MatrixView<const float>& x) {
  AlignedBytes bytes(ActivationBytes(kind, x.rows, x.cols));
  std::memset(bytes.data(), 0x55, static_cast<size_t>(bytes.size()));
  level.pack(
      {&pool},
      {.x = x,
       .out = {
           .kind = kind, .rows = x.rows, .k = x.cols, .bytes = bytes.data()}});
  return bytes;
}

TEST(PackActivations, AllLevelsWriteTheSameBytes) {
  ThreadPool pool(3);
  for (int64_t k : {32, 45, 1056, 256, 768}) {
    for (int64_t rows : {1, 2, 15, 16, 17, 40}) {
      for (int i = 0; i < kNumVectorKinds; ++i) {
        VectorSource source(static_cast<uint64_t>(i));
        const int64_t stride = k + 3;
        std::vector<float> x(static_cast<size_t>(rows * stride));
        source.FillActivations(static_cast<VectorKind>(i), absl::MakeSpan(x));
        if (i == 0) {  // what makes a request fail must not differ either
          x[0] = std::nanf("");
          x[static_cast<size_t>(k - 1)] = -HUGE_VALF;
          x.back() = HUGE_VALF;
        }
        const MatrixView<const float> view = {x.data(), rows, k, stride};
        for (ActivationKind kind : kKinds) {
          if (!Takes(kind, k)) continue;
          const AlignedBytes want = Pack(kAllLevels[0], pool, kind, view);
          for (const Level& level : kAllLevels) {
            if (!Runs(level.isa)) continue;
            const AlignedBytes got = Pack(level, pool, kind, view);
            ASSERT_EQ(std::memcmp(got.data(), want.data(),
                                  static_cast<size_t>(want.size())),
                      0)
                << Name(level.isa) << " rows " << rows << " k " << k
                << " vectors " << i << " kind " << static_cast<int>(kind);
          }
        }
      }
    }
  }
}

struct GroupCase {
  const char* name;
  float largest;  // the group is largest, then largest / 2 31 times
  float scale;
  int32_t first_code;
  int32_t other_code;
};

// Numerics section 2: 2^-100 is the smallest maximum that counts; ties of the
// codes go to even (63.5 -> 64).
const GroupCase kGroupCases[] = {
    {"One", 1.0f, 1.0f / 127.0f, 127, 64},
    {"Negative", -254.0f, 2.0f, -127, -64},
    {"AtThreshold", 0x1p-100f, 0x1p-100f / 127.0f, 127, 64},
    {"BelowThreshold", 0x1.fffffep-101f, 0.0f, 0, 0},
    {"Zero", 0.0f, 0.0f, 0, 0},
    {"Largest", 0x1.fffffep127f, 0x1.fffffep127f / 127.0f, 127, 64},
};

TEST(PackActivations, GroupsOf32) {
  ThreadPool pool(1);
  for (const GroupCase& c : kGroupCases) {
    std::vector<float> x(32, c.largest / 2);
    x[0] = c.largest;
    for (const Level& level : kAllLevels) {
      if (!Runs(level.isa)) continue;
      const AlignedBytes bytes = Pack(level, pool, ActivationKind::kInt8Group32,
                                      {x.data(), 1, 32, 32});
      const ActivationBlock block =
          BlockAt({.kind = ActivationKind::kInt8Group32,
                   .rows = 1,
                   .k = 32,
                   .bytes = bytes.data()},
                  0);
      const int32_t sum = c.first_code + 31 * c.other_code;
      EXPECT_EQ(block.codes[0], c.first_code) << c.name;
      EXPECT_EQ(block.codes[31], c.other_code) << c.name;
      EXPECT_EQ(block.scale[0], c.scale) << c.name;
      EXPECT_EQ(block.scaled_sum[0], c.scale * static_cast<float>(sum))
          << c.name;
      EXPECT_EQ(block.minus_128_sum[0], -128 * sum) << c.name;
    }
  }
}

// One scale for all, each group's own sums.
TEST(PackActivations, GroupsOf256) {
  ThreadPool pool(1);
  for (const GroupCase& c : kGroupCases) {
    std::vector<float> x(2 * 256, c.largest / 2);
    x[40] = c.largest;  // in the first half of group 1
    x[256] = c.largest;
    for (const Level& level : kAllLevels) {
      if (!Runs(level.isa)) continue;
      const AlignedBytes bytes = Pack(
          level, pool, ActivationKind::kInt8Group256, {x.data(), 2, 256, 256});
      const ActivationBlock block =
          BlockAt({.kind = ActivationKind::kInt8Group256,
                   .rows = 2,
                   .k = 256,
                   .bytes = bytes.data()},
                  0);
      const int32_t half = 16 * c.other_code;
      const int32_t first = c.first_code + 15 * c.other_code;
      for (int g = 0; g < 8; ++g) {
        const int64_t at = 2 * g;  // row 0 of two
        EXPECT_EQ(block.scale[at], c.scale) << c.name;
        EXPECT_EQ(block.half_sums[at][0], g == 1 ? first : half) << c.name;
        EXPECT_EQ(block.half_sums[at][1], half) << c.name;
        EXPECT_EQ(block.pair_sums[at][0], g % 2 == 0 ? 2 * half : 0) << c.name;
        const int32_t second = g == 0 ? first + half : 2 * half;
        EXPECT_EQ(block.pair_sums[at][1], g % 2 == 0 ? second : 0) << c.name;
      }
      EXPECT_EQ(block.codes[2 * 32 + 8], c.first_code) << c.name;
      EXPECT_EQ(block.codes[32], c.first_code) << c.name;  // row 1
      EXPECT_EQ(block.half_sums[1][0], first) << c.name;
    }
  }
}

TEST(PackActivations, IsWithinHalfAStepAndExactWherePromised) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 18;
  for (ActivationKind kind : kKinds) {
    const int64_t width = Takes(kind, 77) ? 77 : 512;
    const int64_t group = GroupOf(kind);
    VectorSource source(3);
    std::vector<float> x(static_cast<size_t>(kRows * width));
    source.FillActivations(VectorKind::kUnit, absl::MakeSpan(x));
    const AlignedBytes bytes =
        Pack(kAllLevels[0], pool, kind, {x.data(), kRows, width, width});
    const Activations a = {
        .kind = kind, .rows = kRows, .k = width, .bytes = bytes.data()};
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t k = 0; k < width; ++k) {
        float amax = 0;
        const int64_t begin = k / group * group;
        for (int64_t i = begin; i < std::min(width, begin + group); ++i) {
          amax = std::max(amax, std::fabs(x[r * width + i]));
        }
        const double want = x[r * width + k];
        const double bound = kind == ActivationKind::kF32 ? 0
                             : kind == ActivationKind::kBF16
                                 ? std::fabs(want) * 0x1p-8
                                 : amax / 127 * 0.50001;
        ASSERT_NEAR(ActivationAt(a, r, k), want, bound) << r << "," << k;
      }
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
