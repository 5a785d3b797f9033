// Are sampled tokens distributed as the rule says? Chi-square against f64, with
// fixed seeds, and the same check on rules broken on purpose.

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/sample.h"
#include "tests/kernels/op_levels.h"
#include "tests/kernels/sample_fixture.h"

namespace sluice::kernels {
namespace {

using Rule = std::function<int32_t(const SampleRow&)>;

// The 0.999 quantile of chi-square: the specification's numbers, else the
// approximation of Wilson and Hilferty.
double Quantile(int degrees) {
  if (degrees == 5) return 20.52;
  if (degrees == 35) return 66.62;
  if (degrees == 127) return 181.99;
  const double share = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1 - share + 3.0902 * std::sqrt(share), 3);
}

struct Fit {
  double chi_square = 0;
  int degrees = 0;
  bool outside = false;  // a draw the rule forbids
  bool Good() const { return !outside && chi_square < Quantile(degrees); }
};

// Cells with fewer than 5 expected draws are merged.
Fit FitOf(const std::vector<int64_t>& counts, const std::vector<double>& p) {
  int64_t draws = 0;
  for (const int64_t count : counts) draws += count;
  Fit fit;
  double small_expected = 0;
  double small_count = 0;
  int cells = 0;
  const auto add = [&](double expected, double count) {
    fit.chi_square += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = p[i] * static_cast<double>(draws);
    if (expected == 0 && counts[i] > 0) fit.outside = true;
    if (expected == 0) continue;
    if (expected < 5) {
      small_expected += expected;
      small_count += static_cast<double>(counts[i]);
    } else {
      add(expected, static_cast<double>(counts[i]));
    }
  }
  if (small_expected > 0) add(small_expected, small_count);
  fit.degrees = std::max(1, cells - 1);
  return fit;
}

// Probabilities of the kept tokens; 0 elsewhere.
std::vector<double> Expected(const SampleRow& row, int64_t vocab) {
  const KeptF64 kept = TruncateF64(row, EditedLogitsF64(row, vocab));
  std::vector<double> p(vocab, 0.0);
  double total = 0;
  for (int64_t i = 0; i < kept.kept; ++i) {
    total += std::exp(kept.z[kept.order[i]]);
  }
  for (int64_t i = 0; i < kept.kept; ++i) {
    p[kept.order[i]] = std::exp(kept.z[kept.order[i]]) / total;
  }
  return p;
}

Fit FitOverPositions(const Rule& rule, SampleRow row, int64_t vocab,
                     int64_t draws) {
  std::vector<int64_t> counts(vocab, 0);
  for (int64_t i = 0; i < draws; ++i) {
    row.position = 1000 + i;
    ++counts[rule(row)];
  }
  return FitOf(counts, Expected(row, vocab));
}

const std::vector<float>& SixLogits() {
  static const auto* const logits = [] {
    auto* x = new std::vector<float>;
    for (const double p : {0.40, 0.25, 0.15, 0.10, 0.06, 0.04}) {
      x->push_back(static_cast<float>(std::log(p)));
    }
    return x;
  }();
  return *logits;
}

Rule RuleOf(RowSampling& sampling) {
  return [&sampling](const SampleRow& row) { return sampling.One(row); };
}

// Each truncation alone and all of them, at three temperatures.
std::vector<SampleRow> Truncations() {
  std::vector<SampleRow> rows;
  for (const float temperature : {0.7f, 1.0f, 1.5f}) {
    SampleRow row = {.temperature = temperature, .seed = 42};
    rows.push_back(row);
    row.top_k = 3;
    rows.push_back(row);
    row.top_p = 0.8f;
    row.min_p = 0.15f;
    rows.push_back(row);
    row.top_k = 0;
    row.min_p = 0;
    rows.push_back(row);
    row.top_p = 1;
    row.min_p = 0.2f;
    rows.push_back(row);
  }
  return rows;
}

TEST(SampleDistribution, SixTokensAndEveryTruncation) {
  RowSampling sampling(*Levels().back(), 6);
  for (SampleRow row : Truncations()) {
    row.logits = SixLogits().data();
    const Fit fit = FitOverPositions(RuleOf(sampling), row, 6, 200000);
    EXPECT_TRUE(fit.Good())
        << fit.chi_square << " of " << fit.degrees << " T " << row.temperature;
  }
}

TEST(SampleDistribution, WorkedTruncationKeepsTwoTokens) {
  const SampleRow row = {
      .logits = SixLogits().data(), .top_k = 3, .top_p = 0.8f, .min_p = 0.2f};
  const std::vector<double> p = Expected(row, 6);
  EXPECT_NEAR(p[0], 0.61538, 1e-5);
  EXPECT_NEAR(p[1], 0.38462, 1e-5);
  EXPECT_EQ(p[2], 0.0);
}

TEST(SampleDistribution, RandomLogits) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(128);
  for (float& x : logits) x = normal(rng);
  RowSampling sampling(*Levels().back(), 128);
  for (SampleRow row : Truncations()) {
    if (row.top_k > 0) row.top_k = 40;
    // Every truncation at T = 1; the other temperatures only untruncated.
    const bool truncated = row.top_k > 0 || row.top_p < 1 || row.min_p > 0;
    if (truncated && row.temperature != 1) continue;
    row.logits = logits.data();
    const Fit fit = FitOverPositions(RuleOf(sampling), row, 128, 200000);
    EXPECT_TRUE(fit.Good()) << fit.chi_square << " of " << fit.degrees;
  }
}

TEST(SampleDistribution, LargeVocabularyWithHotTokens) {
  const int64_t vocab = 152064;
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(vocab);
  for (float& x : logits) x = normal(rng);
  for (int i = 0; i < 8; ++i) {
    logits[rng() % vocab] = 12.0f + 0.3f * static_cast<float>(i);
  }
  RowSampling sampling(*Levels().back(), vocab);
  SampleRow row = {.logits = logits.data(), .seed = 42};
  const Fit all = FitOverPositions(RuleOf(sampling), row, vocab, 4000);
  EXPECT_TRUE(all.Good()) << all.chi_square << " of " << all.degrees;
  row.top_k = 50;
  row.top_p = 0.9f;
  const Fit cut = FitOverPositions(RuleOf(sampling), row, vocab, 4000);
  EXPECT_TRUE(cut.Good()) << cut.chi_square << " of " << cut.degrees;
}

TEST(SampleDistribution, ManySeedsAtOnePosition) {
  RowSampling sampling(*Levels().back(), 6);
  SampleRow row = {.logits = SixLogits().data(), .position = 5};
  std::vector<int64_t> counts(6, 0);
  for (uint64_t seed = 0; seed < 60000; ++seed) {
    row.seed = seed;
    ++counts[sampling.One(row)];
  }
  EXPECT_LT(FitOf(counts, Expected(row, 6)).chi_square, 20.52);
}

// Tokens of positions 2 i and 2 i + 1 as one of 36 pairs.
Fit FitOfPairs(const Rule& rule) {
  SampleRow row = {.logits = SixLogits().data(), .seed = 42};
  const std::vector<double> p = Expected(row, 6);
  std::vector<int64_t> counts(36, 0);
  std::vector<double> pairs;
  for (int i = 0; i < 36; ++i) pairs.push_back(p[i / 6] * p[i % 6]);
  for (int64_t i = 0; i < 200000; ++i) {
    row.position = 2 * i;
    const int32_t first = rule(row);
    row.position = 2 * i + 1;
    ++counts[first * 6 + rule(row)];
  }
  return FitOf(counts, pairs);
}

TEST(SampleDistribution, AdjacentPositionsAreIndependent) {
  RowSampling sampling(*Levels().back(), 6);
  const Fit fit = FitOfPairs(RuleOf(sampling));
  EXPECT_EQ(fit.degrees, 35);
  EXPECT_TRUE(fit.Good()) << fit.chi_square;
}

// The test of the test: each of these mistakes must be seen.
TEST(BrokenRules, AreSeen) {
  RowSampling sampling(*Levels().back(), 6);
  const Rule right = RuleOf(sampling);
  SampleRow row = {.logits = SixLogits().data(), .seed = 42};

  const auto sees = [&](const Rule& rule) {
    return !FitOverPositions(rule, row, 6, 200000).Good();
  };
  EXPECT_FALSE(sees(right));
  // Temperature off by three percent.
  EXPECT_TRUE(sees([&](SampleRow r) {
    r.temperature = 1.03f;
    return right(r);
  }));
  // Exponential instead of Gumbel noise.
  EXPECT_TRUE(sees([&](const SampleRow& r) {
    int32_t best = 0;
    double best_key = -INFINITY;
    for (uint32_t t = 0; t < 6; ++t) {
      const uint32_t word =
          RandomWord({.seed = r.seed, .position = r.position}, t);
      const double key = r.logits[t] - std::log((word + 0.5) * 0x1p-32);
      if (key > best_key) {
        best_key = key;
        best = static_cast<int32_t>(t);
      }
    }
    return best;
  }));
  // One token may not win.
  EXPECT_TRUE(sees([&](SampleRow r) {
    const int32_t ban[] = {5};
    r.banned = ban;
    return right(r);
  }));
  // top_p over the unfiltered distribution keeps a third token.
  row.top_k = 3;
  row.top_p = 0.8f;
  row.min_p = 0.2f;
  EXPECT_FALSE(sees(right));
  EXPECT_TRUE(sees([&](SampleRow r) {
    r.top_k = 0;
    r.min_p = 0;
    return right(r);
  }));
  // Positions that share their randomness in pairs.
  EXPECT_FALSE(FitOfPairs([&](SampleRow r) {
                 r.position /= 2;
                 return right(r);
               }).Good());
}

}  // namespace
}  // namespace sluice::kernels
