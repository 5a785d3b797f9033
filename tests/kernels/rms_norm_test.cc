#include "kernels/rms_norm.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/reference/row_ops.h"
#include "tests/kernels/op_levels.h"

namespace sluice::kernels {
namespace {

struct Case {
  const char* name;
  int64_t tokens, hidden, stride;
  float magnitude;  // inputs are uniform in [-magnitude, magnitude]
};

const Case kCases[] = {
    {"OneElement", 1, 1, 1, 1.0f},
    {"NoTokens", 0, 64, 64, 1.0f},
    {"OddWidth", 3, 61, 61, 1.0f},
    {"BelowABlock", 5, 127, 130, 1.0f},
    {"StridedRows", 4, 128, 160, 1.0f},
    {"AboveABlock", 2, 145, 145, 1.0f},
    {"TinyValues", 2, 256, 256, 1e-12f},
    {"Smollm", 33, 576, 576, 3.0f},
    {"ModelWidth", 2, 8192, 8192, 40.0f},
    {"Widest", 2, 16384, 16384, 1.0f},
    {"MillionInputs", 1000, 1003, 1003, 2.0f},
};

class RmsNormTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    std::mt19937 rng(17);
    std::uniform_real_distribution<float> input(-1, 1);
    x_.resize(c.tokens * c.stride);
    weight_.resize(c.hidden);
    for (float& v : x_) v = input(rng) * c.magnitude;
    for (float& v : weight_) v = input(rng);
  }

  RmsNormArgs Args(std::vector<float>& y) {
    const Case& c = GetParam();
    return {.x = {x_.data(), c.tokens, c.hidden, c.stride},
            .weight = weight_.data(),
            .y = {y.data(), c.tokens, c.hidden, c.stride}};
  }

  std::vector<float> x_;
  std::vector<float> weight_;
};

TEST_P(RmsNormTest, MatchesFloat64AndEveryLevelHasTheSameBits) {
  const Case& c = GetParam();
  ThreadPool pool(2);
  std::vector<float> y(x_.size(), -7.0f);  // poison: writes past cols show
  Levels()[0]->rms_norm({&pool}, Args(y));
  std::vector<double> want(c.tokens * c.hidden);
  RmsNormF64(Args(y), want.data());
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t d = 0; d < c.stride; ++d) {
      const float got = y[t * c.stride + d];
      if (d >= c.hidden) {
        ASSERT_EQ(got, -7.0f) << t << "," << d;
        continue;
      }
      const double w = want[t * c.hidden + d];
      ASSERT_NEAR(got, w, std::abs(w) * 1e-6) << t << "," << d;
    }
  }
  for (const OpTable* ops : Levels()) {
    for (const int threads : {1, 2, 7}) {
      ThreadPool other(threads);
      std::vector<float> z(x_.size(), -7.0f);
      ops->rms_norm({&other}, Args(z));
      EXPECT_TRUE(SameBytes(z, y)) << ops->name << " " << threads;
    }
    // In place.
    std::vector<float> z = x_;
    RmsNormArgs args = Args(z);
    args.x.data = z.data();
    ops->rms_norm({&pool}, args);
    for (int64_t t = 0; t < c.tokens; ++t) {
      EXPECT_EQ(std::memcmp(&z[t * c.stride], &y[t * c.stride], c.hidden * 4),
                0)
          << ops->name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormTest, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

// CPU numerics section 6 by hand: blocks of 128, 16 lanes of fma, f64 across.
TEST(RmsNormBits, AreThoseOfTheDefinition) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(1000);
  for (float& v : x) v = normal(rng);
  const std::vector<float> ones(x.size(), 1.0f);
  double sum = 0;
  for (size_t begin = 0; begin < x.size(); begin += 128) {
    float v[16] = {};
    for (size_t i = begin; i < std::min(begin + 128, x.size()); ++i) {
      v[(i - begin) % 16] = std::fma(x[i], x[i], v[(i - begin) % 16]);
    }
    for (const int half : {8, 4, 2, 1}) {
      for (int j = 0; j < half; ++j) v[j] += v[j + half];
    }
    sum += v[0];
  }
  const float r = 1 / std::sqrt(static_cast<float>(sum / 1000) + 1e-6f);
  ThreadPool pool(1);
  std::vector<float> y(x.size());
  Levels().back()->rms_norm({&pool}, {.x = {x.data(), 1, 1000, 1000},
                                      .weight = ones.data(),
                                      .y = {y.data(), 1, 1000, 1000}});
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], x[i] * r);
}

// Attention specification section 8.1, before the cast.
TEST(RmsNormExample, ScaleThenCast) {
  const float x[] = {1, -2, 3, 0.5f};
  const float weight[] = {1.0078125f, 0.330078125f, 1.703125f, 0.8984375f};
  const float r = 0.5298129f;
  ThreadPool pool(1);
  for (const OpTable* ops : Levels()) {
    float y[4];
    ops->rms_norm({&pool},
                  {.x = {x, 1, 4, 4}, .weight = weight, .y = {y, 1, 4, 4}});
    for (int d = 0; d < 4; ++d) EXPECT_NEAR(y[d], x[d] * r * weight[d], 1e-6);
  }
}

}  // namespace
}  // namespace sluice::kernels
