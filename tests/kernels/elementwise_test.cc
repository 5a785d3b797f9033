#include "kernels/elementwise.h"

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

// Inputs of every size: unit normal, huge, tiny, zeros, subnormal.
std::vector<float> Inputs(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) {
    const float scale = std::ldexp(1.0f, static_cast<int>(rng() % 40) - 32);
    x[i] = normal(rng) * (i % 3 == 0 ? 1.0f : scale * 16);
    if (i % 101 == 0) x[i] = i % 2 == 0 ? 0.0f : -0.0f;
    if (i % 103 == 0) x[i] = i % 2 == 0 ? 1e-40f : -1e-40f;
  }
  return x;
}

TEST(SiluMul, MatchesFloat64AndEveryLevelHasTheSameBits) {
  const int64_t rows = 1000;
  const int64_t cols = 1003;
  const std::vector<float> gate = Inputs(rows * cols, 1);
  const std::vector<float> up = Inputs(rows * cols, 2);
  const auto args = [&](std::vector<float>& y) {
    return SiluMulArgs{.gate = {gate.data(), rows, cols, cols},
                       .up = {up.data(), rows, cols, cols},
                       .y = {y.data(), rows, cols, cols}};
  };
  ThreadPool pool(2);
  std::vector<float> y(rows * cols);
  Levels()[0]->silu_mul({&pool}, args(y));
  std::vector<double> want(y.size());
  SiluMulF64(args(y), want.data());
  for (size_t i = 0; i < want.size(); ++i) {
    // exp below -86 is +0, subnormals are zero.
    ASSERT_NEAR(y[i], want[i], std::abs(want[i]) * 1e-6 + 1e-30) << i;
  }
  for (const OpTable* ops : Levels()) {
    for (const int threads : {1, 7}) {
      ThreadPool other(threads);
      std::vector<float> z(y.size());
      ops->silu_mul({&other}, args(z));
      EXPECT_TRUE(SameBytes(z, y)) << ops->name;
    }
    std::vector<float> z = gate;  // in place
    SiluMulArgs in_place = args(z);
    in_place.gate.data = z.data();
    ops->silu_mul({&pool}, in_place);
    EXPECT_TRUE(SameBytes(z, y)) << ops->name;
    // A row alone, on the caller's thread.
    std::vector<float> row(cols);
    SiluMulArgs alone = args(row);
    alone.gate.data += 5 * cols;
    alone.up.data += 5 * cols;
    alone.gate.rows = alone.up.rows = alone.y.rows = 1;
    ops->silu_mul({&pool}, alone);
    EXPECT_EQ(std::memcmp(row.data(), &y[5 * cols], cols * 4), 0) << ops->name;
  }
}

TEST(Add, EveryLevelHasTheSameBits) {
  for (const int64_t cols : {1, 15, 16, 33, 576, 20000}) {
    const std::vector<float> a = Inputs(3 * cols, 1);
    const std::vector<float> b = Inputs(3 * cols, 2);
    for (const OpTable* ops : Levels()) {
      ThreadPool pool(2);
      std::vector<float> y = a;
      ops->add({&pool}, {.a = {y.data(), 3, cols, cols},
                         .b = {b.data(), 3, cols, cols},
                         .y = {y.data(), 3, cols, cols}});
      for (int64_t i = 0; i < 3 * cols; ++i) {
        const float want = a[i] + b[i];
        if (std::fpclassify(want) == FP_SUBNORMAL) continue;
        if (std::fpclassify(a[i]) == FP_SUBNORMAL) continue;
        if (std::fpclassify(b[i]) == FP_SUBNORMAL) continue;
        ASSERT_EQ(y[i], want) << ops->name;
      }
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
