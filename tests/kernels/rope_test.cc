#include "kernels/rope.h"

#include <cmath>
#include <random>
#include <vector>

#include "base/sha256.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/exact_math.h"
#include "kernels/reference/row_ops.h"
#include "kernels/rope_table.h"
#include "tests/kernels/op_levels.h"

namespace sluice::kernels {
namespace {

constexpr RopePairs kHalf = RopePairs::kHalf;
constexpr RopePairs kInterleaved = RopePairs::kInterleaved;

TEST(Rope, WorkedExample) {
  const RopeTableStorage table({.rot = 4}, 4);
  const int64_t position = 3;
  const float want[2][4] = {{-1.272233f, -1.838865f, 2.878668f, 4.088187f},
                            {-1.413353f, 1.879118f, -2.828857f, 4.058191f}};
  ThreadPool pool(1);
  for (const OpTable* ops : Levels()) {
    for (const RopePairs pairs : {kInterleaved, kHalf}) {
      float x[] = {1, 2, 3, 4};
      ops->append_kv({&pool}, {.rope = {.x = {x, 1, 4, 4},
                                        .heads = 1,
                                        .head_dim = 4,
                                        .positions = {&position, 1},
                                        .table = table.view(),
                                        .pairs = pairs}});
      for (int i = 0; i < 4; ++i) {
        EXPECT_NEAR(x[i], want[pairs == kHalf][i], 1e-6);
      }
    }
  }
}

struct Case {
  int64_t tokens, heads, head_dim, rot;
};

TEST(Rope, MatchesFloat64AndEveryLevelHasTheSameBits) {
  const Case cases[] = {{1, 1, 8, 8},     {3, 9, 64, 64}, {33, 4, 128, 64},
                        {2, 3, 96, 96},   {5, 2, 80, 40}, {200, 9, 64, 64},
                        {4, 1, 512, 512}, {4, 2, 24, 22}};
  ThreadPool pool(2);
  for (const Case& c : cases) {
    const RopeParams params = {.rot = c.rot, .attention_factor = 1.25};
    const RopeTableStorage table(params, 4096);
    std::mt19937 rng(4);
    std::normal_distribution<float> normal;
    const int64_t cols = c.heads * c.head_dim;
    std::vector<float> x(c.tokens * cols);
    for (float& v : x) v = normal(rng);
    std::vector<int64_t> positions;
    for (int64_t t = 0; t < c.tokens; ++t) {
      positions.push_back(static_cast<int64_t>(rng() % 4096));
    }
    for (const RopePairs pairs : {kInterleaved, kHalf}) {
      const auto args = [&](std::vector<float>& y) {
        return RopeArgs{.x = {y.data(), c.tokens, cols, cols},
                        .heads = c.heads,
                        .head_dim = c.head_dim,
                        .positions = positions,
                        .table = table.view(),
                        .pairs = pairs};
      };
      std::vector<float> y = x;
      Levels()[0]->append_kv({&pool}, {.rope = args(y)});
      std::vector<double> want(x.size());
      RopeF64(args(x), params, want.data());
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(y[i], want[i], 1e-6 * 1.25 * 4);
      }
      for (const OpTable* ops : Levels()) {
        for (const int threads : {1, 7}) {
          ThreadPool other(threads);
          std::vector<float> z = x;
          ops->append_kv({&other}, {.rope = args(z)});
          EXPECT_TRUE(SameBytes(z, y)) << ops->name << " " << c.head_dim;
        }
      }
    }
  }
}

TEST(RopeDeathTest, PositionPastTheTable) {
  const RopeTableStorage table({.rot = 4}, 4);
  const int64_t position = 4;
  float x[4] = {};
  ThreadPool pool(1);
  EXPECT_DEATH(
      Levels().back()->append_kv({&pool}, {.rope = {.x = {x, 1, 4, 4},
                                                    .heads = 1,
                                                    .head_dim = 4,
                                                    .positions = {&position, 1},
                                                    .table = table.view()}}),
      "CHECK failed");
}

TEST(RopeTable, YarnExample) {
  const RopeParams params = {.rot = 64,
                             .scaling = RopeScaling::kYarn,
                             .factor = 40,
                             .original_positions = 4096};
  const std::vector<double> f = RopeTableStorage::Frequencies(params);
  const std::pair<int, double> want[] = {
      {10, 0.0562341325},  {11, 0.0390069266},  {16, 0.0055},
      {22, 1.77827941e-4}, {23, 3.33380358e-5}, {31, 3.33380358e-6}};
  for (const auto& pair : want) {
    EXPECT_NEAR(f[pair.first], pair.second, pair.second * 1e-8) << pair.first;
  }
  EXPECT_NEAR(YarnAttentionFactor(40), 1.368888, 1e-6);
  EXPECT_NEAR(YarnAttentionFactor(40) * YarnAttentionFactor(40), 1.873854,
              2e-6);
  EXPECT_EQ(YarnAttentionFactor(1), 1.0);
  EXPECT_EQ(YarnAttentionFactor(0.5), 1.0);
}

TEST(RopeTable, LinearAndLlama3) {
  const RopeParams plain = {.rot = 64, .base = 500000};
  RopeParams linear = plain;
  linear.scaling = RopeScaling::kLinear;
  linear.factor = 4;
  RopeParams llama3 = plain;
  llama3.scaling = RopeScaling::kLlama3;
  llama3.factor = 32;
  llama3.original_positions = 8192;
  const std::vector<double> f = RopeTableStorage::Frequencies(plain);
  const std::vector<double> by_four = RopeTableStorage::Frequencies(linear);
  const std::vector<double> scaled = RopeTableStorage::Frequencies(llama3);
  int between = 0;
  for (int i = 0; i < 32; ++i) {
    EXPECT_NEAR(f[i], std::pow(500000.0, -i / 32.0), f[i] * 1e-14);
    EXPECT_EQ(by_four[i], f[i] / 4);
    const double wavelength = 2 * M_PI / f[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(scaled[i], f[i]) << i;
    } else if (wavelength > 8192.0) {
      EXPECT_EQ(scaled[i], f[i] / 32) << i;
    } else {
      ++between;
      const double smooth = (8192.0 / wavelength - 1) / 3;
      EXPECT_NEAR(scaled[i], (1 - smooth) * f[i] / 32 + smooth * f[i],
                  f[i] * 1e-13);
    }
  }
  EXPECT_GT(between, 1);
}

TEST(RopeTable, WithinBoundOfLibm) {
  const RopeParams params = {.rot = 64, .attention_factor = 1.368888};
  const RopeTableStorage table(params, 10000);
  const std::vector<double> f = RopeTableStorage::Frequencies(params);
  for (int64_t p = 0; p < 10000; p += 7) {
    for (int64_t i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(p) * f[i];
      ASSERT_NEAR(table.view().cos[p * 32 + i], std::cos(angle) * 1.368888,
                  1e-7);
      ASSERT_NEAR(table.view().sin[p * 32 + i], std::sin(angle) * 1.368888,
                  1e-7);
    }
  }
}

// The bytes of tables are part of numerics_id: they must never change
// unnoticed.
TEST(RopeTable, BytesAreTheCommittedOnes) {
  RopeParams yarn = {.rot = 128,
                     .scaling = RopeScaling::kYarn,
                     .factor = 40,
                     .original_positions = 4096,
                     .attention_factor = YarnAttentionFactor(40)};
  RopeParams llama3 = {.rot = 64,
                       .base = 500000,
                       .scaling = RopeScaling::kLlama3,
                       .factor = 32,
                       .original_positions = 8192};
  Sha256 hash;
  for (const RopeParams& params :
       {RopeParams{.rot = 64, .base = 100000}, yarn, llama3}) {
    const RopeTableStorage table(params, 9000);
    const size_t bytes = 9000 * static_cast<size_t>(params.rot / 2) * 4;
    hash.Update({reinterpret_cast<const char*>(table.view().cos), bytes});
    hash.Update({reinterpret_cast<const char*>(table.view().sin), bytes});
  }
  EXPECT_EQ(ToHex(hash.Finish()),
            "fa3cf3fa63c86ab8bcf2c21bcc046423cc651414e59409990d1199f1d9889023");
}

TEST(ExactMath, WithinBoundOfLibm) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> unit(0, 1);
  for (int i = 0; i < 200000; ++i) {
    const double x = (unit(rng) * 2 - 1) * (i % 2 == 0 ? 40 : 700);
    const long double e = std::exp(static_cast<long double>(x));
    ASSERT_LE(std::fabs(static_cast<double>((ExactExp(x) - e) / e)), 1e-15);
    const double y = i % 2 == 0 ? 0.5 + unit(rng) : std::exp(x);
    const long double ln = std::log(static_cast<long double>(y));
    ASSERT_LE(std::fabs(static_cast<double>(ExactLog(y) - ln)),
              1e-15 * std::fabs(static_cast<double>(ln)));
    const double a = unit(rng) * (i % 2 == 0 ? 10 : 0x1p25);
    const SineCosine at = ExactSineCosine(a);
    ASSERT_LE(std::fabs(static_cast<double>(
                  at.sine - std::sin(static_cast<long double>(a)))),
              1e-15);
    ASSERT_LE(std::fabs(static_cast<double>(
                  at.cosine - std::cos(static_cast<long double>(a)))),
              1e-15);
  }
  EXPECT_EQ(ExactExp(0), 1.0);
  EXPECT_EQ(ExactLog(1), 0.0);
  EXPECT_EQ(ExactSineCosine(0).sine, 0.0);
  EXPECT_EQ(ExactSineCosine(0).cosine, 1.0);
}

}  // namespace
}  // namespace sluice::kernels
