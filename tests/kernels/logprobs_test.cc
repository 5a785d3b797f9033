#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/reference/sample.h"
#include "kernels/sample.h"
#include "tests/kernels/op_levels.h"

namespace sluice::kernels {
namespace {

struct Output {
  float logprob = 0;
  std::vector<TopLogprob> top;
};

Output LogprobsBy(const OpTable& ops, const std::vector<float>& logits,
                  int32_t token, int32_t num_top) {
  ThreadPool pool(1);
  Output out;
  out.top.resize(num_top);
  const LogprobsRow row = {.logits = logits.data(),
                           .token = token,
                           .num_top = num_top,
                           .logprob = &out.logprob,
                           .top = out.top.data()};
  ops.logprobs({&pool}, {.rows = {&row, 1},
                         .vocab = static_cast<int64_t>(logits.size())});
  return out;
}

std::vector<float> Logits(int64_t vocab, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(vocab);
  for (float& x : logits) x = normal(rng);
  // Ties and masked tokens.
  for (int64_t t = 5; t < vocab; t += 11) logits[t] = logits[t - 5];
  for (int64_t t = 7; t < vocab; t += 97) {
    logits[t] = -std::numeric_limits<float>::infinity();
  }
  return logits;
}

TEST(Logprobs, MatchFloat64AndEveryLevelHasTheSameBits) {
  for (const int64_t vocab : {1, 2, 5, 15, 16, 17, 33, 1000, 32000, 152064}) {
    const std::vector<float> logits =
        Logits(vocab, static_cast<uint32_t>(vocab));
    const std::vector<double> want = LogprobsF64(logits.data(), vocab);
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[a] > logits[b];
    });
    for (const int32_t num_top : {0, 1, 5, 20}) {
      if (num_top > vocab) continue;
      const int32_t token = static_cast<int32_t>(vocab / 2);
      const Output portable = LogprobsBy(*Levels()[0], logits, token, num_top);
      if (std::isfinite(want[token])) {
        EXPECT_NEAR(portable.logprob, want[token], 1e-5);
      } else {
        EXPECT_EQ(portable.logprob, -std::numeric_limits<float>::infinity());
      }
      for (int32_t i = 0; i < num_top; ++i) {
        EXPECT_EQ(portable.top[i].token, order[i]) << vocab << " " << i;
        if (std::isfinite(want[order[i]])) {
          EXPECT_NEAR(portable.top[i].logprob, want[order[i]], 1e-5);
        }
      }
      for (const OpTable* ops : Levels()) {
        const Output got = LogprobsBy(*ops, logits, token, num_top);
        EXPECT_EQ(std::memcmp(&got.logprob, &portable.logprob, 4), 0)
            << ops->name << " " << vocab;
        if (num_top == 0) continue;
        EXPECT_EQ(std::memcmp(got.top.data(), portable.top.data(),
                              num_top * sizeof(TopLogprob)),
                  0)
            << ops->name << " " << vocab;
      }
    }
  }
}

TEST(Logprobs, ATokenWithoutProbabilityReportsMinusInfinity) {
  std::vector<float> logits(100, 1.0f);
  logits[3] = -std::numeric_limits<float>::infinity();
  for (const OpTable* ops : Levels()) {
    EXPECT_EQ(LogprobsBy(*ops, logits, 3, 2).logprob,
              -std::numeric_limits<float>::infinity());
    EXPECT_NEAR(LogprobsBy(*ops, logits, 4, 2).logprob, -std::log(99.0), 1e-6);
  }
}

}  // namespace
}  // namespace sluice::kernels
