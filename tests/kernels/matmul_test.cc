#include "kernels/matmul.h"

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels/matmul_cases.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kRowCounts[] = {1,  2,  3,  5,  8,  11, 12,
                                  13, 16, 17, 32, 33, 63, 64};
constexpr int64_t kMaxRows = 64;

class MatmulBitsTest
    : public testing::TestWithParam<std::tuple<WeightFormat, int64_t>> {
 protected:
  ThreadPool one_{1};
  ThreadPool two_{2};
  ThreadPool seven_{7};
};

// Every level, batch and thread count against the portable path's 64 rows.
TEST_P(MatmulBitsTest, AllPathsEqualPortable) {
  const auto [format, k] = GetParam();
  for (int kind = 0; kind < kNumVectorKinds; ++kind) {
    SCOPED_TRACE(kind);
    VectorSource source(static_cast<uint64_t>(1000 + kind));
    const int64_t n = kind % 2 == 0 || k > 96 ? 37 : 85;
    const VectorKind vectors = static_cast<VectorKind>(kind);
    const Packed w = MakeWeights(
        {&two_}, {.format = format, .kind = vectors, .rows = n, .k = k},
        source);
    std::vector<float> x(static_cast<size_t>(kMaxRows * k));
    source.FillActivations(vectors, absl::MakeSpan(x));
    const std::vector<float> want =
        Multiply({&one_}, kAllLevels[0], x.data(), kMaxRows, w.matrix);
    for (const Level& level : kAllLevels) {
      if (!Runs(level.isa)) continue;
      SCOPED_TRACE(Name(level.isa));
      for (int64_t rows : kRowCounts) {
        if (level.isa == Isa::kPortable && rows > 17) continue;
        ThreadPool* pools[] = {&one_, &two_, &seven_};
        const OpContext context = {pools[(rows + kind) % 3]};
        const std::vector<float> got =
            Multiply(context, level, x.data(), rows, w.matrix);
        ASSERT_EQ(CountDifferent(got.data(), want.data(), rows * n), 0)
            << rows << " rows";
      }
      for (int64_t row : {kMaxRows - 1, kMaxRows / 2}) {
        const std::vector<float> alone =
            Multiply({&seven_}, level, x.data() + row * k, 1, w.matrix);
        ASSERT_EQ(CountDifferent(alone.data(), &want[row * n], n), 0)
            << "row " << row << " alone";
      }
    }
  }
}

std::string CaseName(
    const testing::TestParamInfo<std::tuple<WeightFormat, int64_t>>& info) {
  return absl::StrCat(Name(std::get<0>(info.param)), "K",
                      std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MatmulBitsTest,
    testing::Combine(testing::Values(WeightFormat::kF32, WeightFormat::kF16,
                                     WeightFormat::kBF16, WeightFormat::kQ8_0,
                                     WeightFormat::kQ4_0, WeightFormat::kQ4_1,
                                     WeightFormat::kQ5_0, WeightFormat::kQ5_1),
                     testing::Values<int64_t>(32, 64, 96, 1056)),
    CaseName);

// These take whole super-blocks.
INSTANTIATE_TEST_SUITE_P(SuperBlocks, MatmulBitsTest,
                         testing::Combine(testing::ValuesIn(kKFormats),
                                          testing::Values<int64_t>(256, 768,
                                                                   1280)),
                         CaseName);

// Float formats take any k.
INSTANTIATE_TEST_SUITE_P(ShortGroups, MatmulBitsTest,
                         testing::Combine(testing::Values(WeightFormat::kF32,
                                                          WeightFormat::kF16,
                                                          WeightFormat::kBF16),
                                          testing::Values<int64_t>(1, 45)),
                         CaseName);

// What the shapes above do not meet: slabs of 2048 of k and their rest, more
// blocks of rows than are done at once, every height of a last block.
class ManyRowsTest : public testing::TestWithParam<WeightFormat> {
 protected:
  void ExpectRows(int64_t k, int64_t n, absl::Span<const int64_t> counts) {
    const WeightFormat format = GetParam();
    const int64_t most = counts.back();
    VectorSource source(static_cast<uint64_t>(k + n));
    const Packed w =
        MakeWeights({&pool_}, {.format = format, .rows = n, .k = k}, source);
    std::vector<float> x(static_cast<size_t>(most * k));
    source.FillActivations(VectorKind::kUnit, absl::MakeSpan(x));
    const std::vector<float> want =
        Multiply({&pool_}, kAllLevels[0], x.data(), most, w.matrix);
    for (const Level& level : kAllLevels) {
      if (!Runs(level.isa) || level.isa == Isa::kPortable) continue;
      for (int64_t rows : counts) {
        const std::vector<float> got =
            Multiply({&pool_}, level, x.data(), rows, w.matrix);
        ASSERT_EQ(CountDifferent(got.data(), want.data(), rows * n), 0)
            << Name(level.isa) << " " << rows << " rows, k " << k;
      }
    }
  }

  ThreadPool pool_{1};
};

TEST_P(ManyRowsTest, SeveralSlabs) {
  const bool super = BlockElements(GetParam()) == 256;
  ExpectRows(super ? 2304 : 2144, 21, {16, 33, 56});
}

TEST_P(ManyRowsTest, MoreBlocksThanAreDoneAtOnce) {
  ExpectRows(std::max<int64_t>(64, BlockElements(GetParam())), 37, {265, 570});
}

TEST_P(ManyRowsTest, EveryNumberOfRows) {
  std::vector<int64_t> counts;
  for (int64_t rows = 1; rows <= 64; ++rows) counts.push_back(rows);
  ExpectRows(std::max<int64_t>(96, BlockElements(GetParam())), 21, counts);
}

INSTANTIATE_TEST_SUITE_P(Formats, ManyRowsTest, testing::ValuesIn(kAllFormats),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

TEST(MatmulLevels, SkippedLevels) {
  for (const Level& level : kAllLevels) {
    if (!Runs(level.isa)) {
      GTEST_SKIP() << "this machine does not run " << Name(level.isa)
                   << "; its paths were not compared";
    }
  }
}

class MatmulValueTest : public testing::TestWithParam<WeightFormat> {
 protected:
  ThreadPool pool_{2};
};

TEST_P(MatmulValueTest, MatchesFloat64OnRoundedOperands) {
  const WeightFormat format = GetParam();
  constexpr int64_t kRows = 3;
  constexpr int64_t kN = 33;
  const int64_t k = BlockElements(format) == 256 ? 1280 : 1056;
  VectorSource source(17);
  const Packed w =
      MakeWeights({&pool_}, {.format = format, .rows = kN, .k = k}, source);
  std::vector<float> x(kRows * k);
  source.FillActivations(VectorKind::kUnit, absl::MakeSpan(x));
  const ActivationKind kind = ActivationKindFor(format);
  AlignedBytes bytes(ActivationBytes(kind, kRows, k));
  const Activations a = {
      .kind = kind, .rows = kRows, .k = k, .bytes = bytes.data()};
  PackActivationsPortable({&pool_}, {.x = {x.data(), kRows, k, k}, .out = a});
  std::vector<double> want(kRows * kN);
  std::vector<double> absolute(kRows * kN);
  MatmulF64(
      {.a = a, .w = w.matrix, .y = want.data(), .absolute = absolute.data()});
  const std::vector<float> got =
      Multiply({&pool_}, kAllLevels[0], x.data(), kRows, w.matrix);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 1e-5 * absolute[i]) << i;
  }
}

// One rounding for the bias, one more for the sum with y; nothing outside
// [rows, n] is written.
TEST_P(MatmulValueTest, BiasAndAccumulate) {
  const WeightFormat format = GetParam();
  constexpr int64_t kRows = 5;
  constexpr int64_t kN = 21;
  constexpr int64_t kStride = 24;
  const int64_t k = BlockElements(format) == 256 ? 256 : 64;
  VectorSource source(5);
  const Packed w =
      MakeWeights({&pool_}, {.format = format, .rows = kN, .k = k}, source);
  std::vector<float> x(kRows * k);
  source.FillActivations(VectorKind::kUnit, absl::MakeSpan(x));
  std::vector<float> bias(kN);
  source.FillActivations(VectorKind::kUnit, absl::MakeSpan(bias));
  const std::vector<float> product =
      Multiply({&pool_}, kAllLevels[0], x.data(), kRows, w.matrix);
  const ActivationKind kind = ActivationKindFor(format);
  AlignedBytes bytes(ActivationBytes(kind, kRows, k));
  const Activations a = {
      .kind = kind, .rows = kRows, .k = k, .bytes = bytes.data()};
  for (const Level& level : kAllLevels) {
    if (!Runs(level.isa)) continue;
    level.pack({&pool_}, {.x = {x.data(), kRows, k, k}, .out = a});
    for (int variant = 0; variant < 4; ++variant) {
      const bool with_bias = (variant & 1) != 0;
      const bool accumulate = (variant & 2) != 0;
      std::vector<float> y(kRows * kStride, 0.625f);
      level.matmul({&pool_}, {.a = a,
                              .w = w.matrix,
                              .bias = with_bias ? bias.data() : nullptr,
                              .y = {y.data(), kRows, kN, kStride},
                              .accumulate = accumulate});
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kStride; ++c) {
          volatile float want = 0.625f;
          if (c < kN) {
            want = product[r * kN + c];
            if (with_bias) want = want + bias[c];
            if (accumulate) want = 0.625f + want;
          }
          ASSERT_TRUE(SameBits(y[r * kStride + c], want))
              << Name(level.isa) << " " << variant << " " << r << "," << c;
        }
      }
    }
  }
}

TEST_P(MatmulValueTest, NoRowsIsNoWork) {
  VectorSource source(1);
  const Packed w = MakeWeights(
      {&pool_}, {.format = GetParam(), .rows = 16, .k = 256}, source);
  for (const Level& level : kAllLevels) {
    if (!Runs(level.isa)) continue;
    EXPECT_TRUE(Multiply({&pool_}, level, nullptr, 0, w.matrix).empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, MatmulValueTest,
                         testing::ValuesIn(kAllFormats), [](const auto& info) {
                           return std::string(Name(info.param));
                         });

}  // namespace
}  // namespace sluice::kernels
