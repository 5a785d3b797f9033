#include "kernels/sample.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/sample.h"
#include "tests/kernels/op_levels.h"
#include "tests/kernels/sample_fixture.h"

namespace sluice::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Every level this machine has.
class SampleTest : public testing::TestWithParam<const OpTable*> {};

INSTANTIATE_TEST_SUITE_P(Levels, SampleTest, testing::ValuesIn(Levels()),
                         [](const auto& info) {
                           return std::string(Name(info.param->isa));
                         });

std::vector<float> LogOf(const std::vector<double>& p) {
  std::vector<float> x;
  for (const double value : p) x.push_back(static_cast<float>(std::log(value)));
  return x;
}

const std::vector<float>& ExampleLogits() {
  static const auto* const logits =
      new std::vector<float>(LogOf({0.40, 0.25, 0.15, 0.10, 0.06, 0.04}));
  return *logits;
}

TEST_P(SampleTest, WorkedDraws) {
  RowSampling sampling(*GetParam(), 6);
  const int32_t want[] = {0, 1, 0, 0, 1, 1};
  for (int64_t position = 7; position <= 12; ++position) {
    EXPECT_EQ(sampling.One({.logits = ExampleLogits().data(),
                            .seed = 42,
                            .position = position}),
              want[position - 7]);
  }
  const float logits[] = {1.5f, 0.25f, -0.75f, 2, 0, 1, -2, 0.5f};
  RowSampling eight(*GetParam(), 8);
  EXPECT_EQ(eight.One({.logits = logits, .seed = 42, .position = 7}), 3);
  EXPECT_EQ(eight.One({.logits = logits, .seed = 42, .position = 8}), 5);
  EXPECT_EQ(eight.One({.logits = logits, .seed = 7, .position = 100}), 5);
  EXPECT_EQ(
      eight.One(
          {.logits = logits, .temperature = 0.5f, .seed = 7, .position = 100}),
      3);
}

TEST_P(SampleTest, WorkedPenalties) {
  const float logits[] = {2, 1, 0.5f, -0.5f, -1, 3};
  const TokenCount counts[] = {{0, 0}, {3, 0}, {5, 2}, {1, 1}, {-1, 0}};
  const TokenBias bias[] = {{2, 1.0f}};
  SampleRow row = {.logits = logits,
                   .temperature = 0,
                   .repetition_penalty = 1.2f,
                   .frequency_penalty = 0.5f,
                   .presence_penalty = 0.25f,
                   .counts = counts,
                   .bias = bias};
  const std::vector<double> edited = EditedLogitsF64(row, 6);
  const double want[] = {1.6666666, 0.0833333, 1.5, -0.6, -1, 1.25};
  for (int t = 0; t < 6; ++t) EXPECT_NEAR(edited[t], want[t], 1e-6);
  RowSampling sampling(*GetParam(), 6);
  EXPECT_EQ(sampling.One(row), 0);
  row.frequency_penalty = row.presence_penalty = 0;
  EXPECT_EQ(sampling.One(row), 5);
  // Token by token: raise a competitor to just below and just above.
  row.frequency_penalty = 0.5f;
  row.presence_penalty = 0.25f;
  for (int t = 0; t < 6; ++t) {
    std::vector<uint32_t> only = {1u << t | 1u << 4};
    row.allowed = only.data();
    EXPECT_EQ(sampling.One(row), want[t] > want[4] || t == 4 ? t : 4) << t;
  }
}

TEST_P(SampleTest, GreedyTakesTheLowestOfTheBest) {
  for (const int64_t vocab : {1, 5, 63, 64, 65, 1000, 32001}) {
    RowSampling sampling(*GetParam(), vocab);
    std::vector<float> logits(vocab, 1.0f);
    EXPECT_EQ(sampling.One({.logits = logits.data(), .temperature = 0}), 0);
    EXPECT_EQ(sampling.One({.logits = logits.data(), .temperature = 9e-6f}), 0);
    logits[vocab - 1] = 2;
    EXPECT_EQ(sampling.One({.logits = logits.data(), .temperature = 0}),
              vocab - 1);
    logits[vocab / 2] = 2;
    EXPECT_EQ(sampling.One({.logits = logits.data(), .temperature = 0}),
              vocab / 2);
    const int32_t banned[] = {static_cast<int32_t>(vocab / 2)};
    if (vocab > 1) {
      EXPECT_EQ(
          sampling.One(
              {.logits = logits.data(), .temperature = 0, .banned = banned}),
          vocab - 1);
    }
  }
}

TEST_P(SampleTest, EdgeRows) {
  RowSampling sampling(*GetParam(), 70);
  std::vector<float> flat(70, 0.25f);
  for (int64_t position = 0; position < 200; ++position) {
    SampleRow row = {.logits = flat.data(), .position = position};
    row.top_k = 3;
    EXPECT_LT(sampling.One(row), 3);
    row.top_k = 1;
    row.temperature = 2;
    EXPECT_EQ(sampling.One(row), 0);
    row.top_k = 0;
    row.top_p = 0;
    EXPECT_EQ(sampling.One(row), 0);
    row.top_p = 0.5f;  // exactly half of 70 equal tokens
    EXPECT_LT(sampling.One(row), 35);
    row.top_p = 1;
    row.min_p = 1;
    EXPECT_GE(sampling.One(row), 0);
  }
  std::vector<float> lonely(70, -kInfinity);
  lonely[66] = -1000;
  EXPECT_EQ(sampling.One({.logits = lonely.data(), .top_k = 5}), 66);
  EXPECT_EQ(sampling.One({.logits = lonely.data(), .top_p = 0.1f}), 66);
  EXPECT_EQ(sampling.One({.logits = lonely.data()}), 66);
  // A bias does not lift a mask; mask bits past the vocabulary are ignored.
  const TokenBias bias[] = {{3, 100.0f}};
  const uint32_t allowed[] = {0xfffffff7u, 0xffffffffu, 0xffffffffu};
  for (int64_t position = 0; position < 50; ++position) {
    const int32_t token = sampling.One({.logits = flat.data(),
                                        .bias = bias,
                                        .allowed = allowed,
                                        .position = position});
    EXPECT_NE(token, 3);
    EXPECT_LT(token, 70);
  }
}

TEST_P(SampleTest, BadLogitsFailTheirRowAlone) {
  const int64_t vocab = 133;
  RowSampling sampling(*GetParam(), vocab, 2);
  std::vector<float> good(vocab, 0.5f);
  std::vector<float> nan = good;
  nan[132] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> infinite = good;
  infinite[0] = kInfinity;
  const std::vector<float> nothing(vocab, -kInfinity);
  const std::vector<uint32_t> none(5, 0);
  std::vector<SampleRow> rows(8, {.logits = good.data(), .temperature = 0});
  rows[1].logits = nan.data();
  rows[3].logits = infinite.data();
  rows[3].temperature = 1;
  rows[5].logits = nothing.data();
  rows[6].allowed = none.data();
  const TokenBias lift[] = {{0, 100.0f}};
  rows[7].logits = nan.data();
  rows[7].bias = lift;
  const std::vector<int32_t> want = {0, -1, 0, -1, 0, -1, -1, -1};
  EXPECT_EQ(sampling.Run(rows), want);
  const SampleStatus bad = SampleStatus::kNotFinite;
  const SampleStatus empty = SampleStatus::kNothingAllowed;
  const SampleStatus ok = SampleStatus::kOk;
  EXPECT_EQ(sampling.status(), (std::vector<SampleStatus>{ok, bad, ok, bad, ok,
                                                          empty, empty, bad}));
  EXPECT_TRUE(sampling.Run({}).empty());
}

// Logits on a grid, so that z is exact in f32 and ties abound.
std::vector<float> GridLogits(int64_t vocab, float step, std::mt19937& rng) {
  std::vector<float> logits(vocab);
  std::uniform_int_distribution<int> grid(-20, 20);
  for (float& x : logits) x = static_cast<float>(grid(rng)) * step;
  return logits;
}

// Parameters of one random truncation.
SampleRow RandomTruncation(int64_t vocab, std::mt19937& rng) {
  const auto below = [&](uint32_t n) { return rng() % n; };
  SampleRow row;
  row.temperature = std::array{0.5f, 1.0f, 2.0f}[below(3)];
  const uint32_t which = 1 + below(7);
  if (which & 1) {
    const int64_t limit = below(2) != 0 ? 50 : vocab;
    row.top_k = static_cast<int32_t>(
        1 + below(static_cast<uint32_t>(std::min(vocab, limit))));
  }
  if (which & 2) row.top_p = static_cast<float>(below(1000)) / 1000;
  // Not the exp of a grid point, where f64 and f32 may disagree.
  if (which & 4) row.min_p = 0.001f + static_cast<float>(below(900)) / 1009;
  row.seed = rng();
  return row;
}

// A position at which `token` has the largest key among the first `n` tokens
// of the order, by a clear margin; -1 if not found soon.
int64_t PositionWhereWins(const KeptF64& order, int64_t n, int32_t token,
                          uint64_t seed) {
  for (int64_t position = 0; position < 3 * n + 30; ++position) {
    double best = -INFINITY;
    double own = -INFINITY;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t t = order.order[i];
      const double key =
          order.z[t] + NoiseF64(RandomWord({.seed = seed, .position = position},
                                           static_cast<uint32_t>(t)));
      if (t == token) {
        own = key;
      } else {
        best = std::max(best, key);
      }
    }
    if (own > best + 1e-3) return position;
  }
  return -1;
}

// The last kept token must win where it has the largest key of all kept, and
// the first dropped one must not win where its key is the largest of all.
void CheckBoundary(RowSampling& sampling, SampleRow row, const KeptF64& want,
                   int* checked) {
  const int32_t last = want.order[want.kept - 1];
  row.position = PositionWhereWins(want, want.kept, last, row.seed);
  if (row.position >= 0) {
    ++*checked;
    ASSERT_EQ(sampling.One(row), last);
  }
  if (want.kept == static_cast<int64_t>(want.order.size())) return;
  const int32_t dropped = want.order[want.kept];
  row.position = PositionWhereWins(want, want.kept + 1, dropped, row.seed);
  if (row.position >= 0) {
    ++*checked;
    ASSERT_NE(sampling.One(row), dropped);
  }
}

TEST_P(SampleTest, TruncationSetsAreThoseOfTheFloat64Twin) {
  struct Size {
    int64_t vocab;
    int rows;
    float step;
  };
  // A large vocabulary on a fine grid would need many positions; on a coarse
  // one few tokens share the top.
  const Size sizes[] = {{1, 50, 0.125f},
                        {5, 5000, 0.125f},
                        {64, 4000, 0.125f},
                        {1000, 940, 0.25f},
                        {152064, 10, 8.0f}};
  for (const Size& size : sizes) {
    std::mt19937 rng(11);
    RowSampling sampling(*GetParam(), size.vocab);
    int checked = 0;
    for (int i = 0; i < size.rows; ++i) {
      std::vector<float> logits = GridLogits(size.vocab, size.step, rng);
      if (size.vocab > 100000) {
        // 60 leaders, tied in threes.
        for (int j = 0; j < 60; ++j) {
          logits[rng() % size.vocab] = 170.0f + static_cast<float>(j / 3);
        }
      }
      SampleRow row = RandomTruncation(size.vocab, rng);
      row.logits = logits.data();
      const KeptF64 want = TruncateF64(row, EditedLogitsF64(row, size.vocab));
      if (want.margin < 1e-5 || want.kept > 300) continue;
      CheckBoundary(sampling, row, want, &checked);
      if (HasFatalFailure()) {
        FAIL() << "vocab " << size.vocab << " row " << i << " k " << row.top_k
               << " p " << row.top_p << " min_p " << row.min_p << " kept "
               << want.kept;
      }
    }
    EXPECT_GT(checked, size.rows / 3) << size.vocab;
  }
}

// Rows with every kind of edit and truncation.
std::vector<SampleRow> MixedRows(int64_t vocab,
                                 const std::vector<std::vector<float>>& logits,
                                 const std::vector<TokenCount>& counts,
                                 const std::vector<TokenBias>& bias,
                                 const std::vector<int32_t>& banned,
                                 const std::vector<uint32_t>& allowed) {
  std::mt19937 rng(5);
  std::vector<SampleRow> rows;
  for (size_t i = 0; i < logits.size(); ++i) {
    SampleRow row;
    if (i % 3 != 0) row = RandomTruncation(vocab, rng);
    if (i % 7 == 0) row.temperature = 0;
    if (i % 11 == 0) row.top_k = 1;
    if (i % 13 == 0) row.top_p = 0.9f;
    if (i % 17 == 0) row.top_k = static_cast<int32_t>(vocab - 1);
    row.logits = logits[i].data();
    row.seed = rng();
    row.position = static_cast<int64_t>(rng());
    if (i % 2 == 0) {
      row.repetition_penalty = 1.3f;
      row.frequency_penalty = 0.25f;
      row.presence_penalty = -0.5f;
      row.counts = counts;
    }
    if (i % 5 == 0) row.bias = bias;
    if (i % 4 == 0) row.banned = banned;
    if (i % 6 == 0) row.allowed = allowed.data();
    rows.push_back(row);
  }
  return rows;
}

TEST(SampleBits, LevelsThreadsBatchesAndOrderAgree) {
  for (const int64_t vocab : {1, 5, 64, 1000, 4099, 49152}) {
    std::mt19937 rng(static_cast<uint32_t>(vocab));
    std::normal_distribution<float> normal(0, vocab > 2000 ? 3 : 1);
    const int num_rows = vocab > 10000 ? 66 : 256;
    std::vector<std::vector<float>> logits(num_rows);
    for (auto& row : logits) {
      for (int64_t t = 0; t < vocab; ++t) row.push_back(normal(rng));
      row[rng() % vocab] = -kInfinity;
      if (vocab == 1) row[0] = 1;
    }
    std::vector<TokenCount> counts;
    std::vector<TokenBias> bias;
    std::vector<int32_t> banned;
    for (int32_t t = 0; t < std::min<int64_t>(vocab / 2, 300); ++t) {
      counts.push_back({t * 2, t % 3});
      if (t % 5 == 0) bias.push_back({t, 1.5f});
      if (t % 50 == 1) banned.push_back(t);
    }
    counts.push_back({static_cast<int32_t>(vocab), 3});
    std::vector<uint32_t> allowed(vocab / 32 + 1);
    for (uint32_t& word : allowed) word = rng() | 1;
    const std::vector<SampleRow> rows =
        MixedRows(vocab, logits, counts, bias, banned, allowed);
    RowSampling portable(*Levels()[0], vocab);
    const std::vector<int32_t> want = portable.Run(rows);
    const std::vector<SampleStatus> want_status = portable.status();
    for (const OpTable* ops : Levels()) {
      for (const int threads : {1, 2, 7}) {
        RowSampling sampling(*ops, vocab, threads);
        EXPECT_EQ(sampling.Run(rows), want) << ops->name << " " << vocab;
        EXPECT_EQ(sampling.status(), want_status);
      }
      RowSampling alone(*ops, vocab);
      for (size_t i = rows.size(); i-- > 0;) {
        ASSERT_EQ(alone.One(rows[i]), want[i]) << ops->name << " " << i;
      }
    }
  }
}

TEST(SampleSeeds, OneBitChangesTheStream) {
  const std::vector<float> flat(512, 0.0f);
  RowSampling sampling(*Levels().back(), 512);
  const auto stream = [&](uint64_t seed) {
    std::vector<int32_t> tokens;
    for (int64_t p = 0; p < 20; ++p) {
      tokens.push_back(
          sampling.One({.logits = flat.data(), .seed = seed, .position = p}));
    }
    return tokens;
  };
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_EQ(stream(77), stream(77));
    EXPECT_NE(stream(77), stream(77 ^ uint64_t{1} << bit)) << bit;
  }
}

}  // namespace
}  // namespace sluice::kernels
