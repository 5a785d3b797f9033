// What a product does besides multiplying has the bits of the ops it stands
// for, at every level, for any number of rows and threads.

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/row_ops.h"
#include "tests/kernels/matmul_cases.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kRowCounts[] = {1, 2, 5, 8, 16, 17, 33};
constexpr float kEpsilon = 1e-5f;

std::vector<float> Numbers(VectorSource& source, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  source.FillActivations(VectorKind::kUnit, absl::MakeSpan(values));
  return values;
}

MatrixView<float> View(std::vector<float>& values, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  return {values.data(), rows, cols, cols};
}
MatrixView<const float> ConstView(const std::vector<float>& values,
                                  int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  return {values.data(), rows, cols, cols};
}

AlignedBytes PackPortable(const std::vector<float>& x, int64_t rows,
                          ActivationKind kind, Activations* out) {
  ThreadPool pool(1);
  const int64_t k = static_cast<int64_t>(x.size()) / rows;
  AlignedBytes bytes(ActivationBytes(kind, rows, k));
  std::memset(bytes.data(), 0, static_cast<size_t>(bytes.size()));
  *out = {.kind = kind, .rows = rows, .k = k, .bytes = bytes.data()};
  PackActivationsPortable({&pool}, {.x = ConstView(x, rows), .out = *out});
  return bytes;
}

std::vector<float> Normed(const std::vector<float>& x, int64_t rows,
                          const std::vector<float>& weight) {
  ThreadPool pool(1);
  std::vector<float> y(x.size());
  RmsNormPortable({&pool}, {.x = ConstView(x, rows),
                            .weight = weight.data(),
                            .y = View(y, rows),
                            .epsilon = kEpsilon});
  return y;
}

bool SameBytes(const AlignedBytes& a, const AlignedBytes& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size())) == 0;
}

struct PackCase {
  const char* name;
  ActivationKind kind;
  int64_t k;
};
constexpr PackCase kPackCases[] = {
    {"Int8", ActivationKind::kInt8Group32, 576},
    {"Int8ShortGroup", ActivationKind::kInt8Group32, 333},
    {"BF16", ActivationKind::kBF16, 576},
    {"BF16ShortGroup", ActivationKind::kBF16, 45},
    {"F32", ActivationKind::kF32, 300},
    {"Int8Super", ActivationKind::kInt8Group256, 1280},
};

class NormPackTest : public testing::TestWithParam<PackCase> {};

// Relative to the largest of a row, what rounding to `kind` may cost.
double RoundingOf(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kBF16:
      return 1.0 / 256;
    case ActivationKind::kF32:
      return 1e-6;
    default:
      return 0.51 / 127;
  }
}

TEST_P(NormPackTest, IsNormThenPackAndCloseToFloat64) {
  const auto [name, kind, k] = GetParam();
  VectorSource source(7);
  const std::vector<float> weight = Numbers(source, k);
  for (int64_t rows : kRowCounts) {
    const std::vector<float> x = Numbers(source, rows * k);
    Activations want;
    const AlignedBytes want_bytes =
        PackPortable(Normed(x, rows, weight), rows, kind, &want);
    for (const Level& level : kAllLevels) {
      if (!Runs(level.isa)) continue;
      for (int threads : {1, 2, 7}) {
        ThreadPool pool(threads);
        AlignedBytes bytes(want_bytes.size());
        std::memset(bytes.data(), 0, static_cast<size_t>(bytes.size()));
        level.pack(
            {&pool},
            {.x = ConstView(x, rows),
             .out = {.kind = kind, .rows = rows, .k = k, .bytes = bytes.data()},
             .norm_weight = weight.data(),
             .epsilon = kEpsilon});
        ASSERT_TRUE(SameBytes(bytes, want_bytes))
            << Name(level.isa) << " " << rows << " rows, " << threads;
      }
    }
    std::vector<double> exact(x.size());
    std::vector<float> room(x.size());
    RmsNormF64({.x = ConstView(x, rows),
                .weight = weight.data(),
                .y = View(room, rows),
                .epsilon = kEpsilon},
               exact.data());
    for (int64_t r = 0; r < rows; ++r) {
      double largest = 0;
      for (int64_t i = 0; i < k; ++i) {
        largest = std::max(largest, std::fabs(exact[r * k + i]));
      }
      for (int64_t i = 0; i < k; ++i) {
        ASSERT_NEAR(ActivationAt(want, r, i), exact[r * k + i],
                    largest * RoundingOf(kind));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, NormPackTest, testing::ValuesIn(kPackCases),
                         [](const auto& info) { return info.param.name; });

// Gate and up, as one matrix with their panels in turn and apart.
struct GateAndUp {
  std::vector<uint8_t> stored[2];
  AlignedBytes bytes[3];
  PackedMatrix gate;
  PackedMatrix up;
  PackedMatrix paired;
};

GateAndUp MakeGateAndUp(WeightFormat format, int64_t ffn, int64_t k,
                        VectorSource& source) {
  ThreadPool pool(2);
  GateAndUp result;
  std::vector<StoredRows> parts;
  const int64_t panel_bytes = 16 * StoredRowBytes(format, k);
  for (std::vector<uint8_t>& side : result.stored) {
    side.resize(static_cast<size_t>(ffn / 16 * panel_bytes));
    source.FillWeights({.format = format, .rows = ffn, .k = k}, side.data());
  }
  for (int64_t p = 0; p < ffn / 16; ++p) {
    for (const std::vector<uint8_t>& side : result.stored) {
      parts.push_back({side.data() + p * panel_bytes, 16});
    }
  }
  const StoredRows gate = {result.stored[0].data(), ffn};
  const StoredRows up = {result.stored[1].data(), ffn};
  const absl::Span<const StoredRows> sources[3] = {{&gate, 1}, {&up, 1}, parts};
  PackedMatrix* targets[3] = {&result.gate, &result.up, &result.paired};
  for (int i = 0; i < 3; ++i) {
    int64_t rows = 0;
    for (const StoredRows& part : sources[i]) rows += part.rows;
    result.bytes[i] = AlignedBytes(PackedBytes(format, rows, k));
    *targets[i] = PackMatrix({&pool}, {.format = format,
                                       .k = k,
                                       .parts = sources[i],
                                       .packed_bytes = result.bytes[i].data()});
  }
  return result;
}

class GatedMatmulTest : public testing::TestWithParam<WeightFormat> {
 protected:
  // By the ops one after another.
  std::vector<float> Separately(const GateAndUp& w, const std::vector<float>& x,
                                int64_t rows, const std::vector<float>& bias) {
    ThreadPool pool(1);
    const int64_t ffn = w.gate.n;
    Activations a;
    const AlignedBytes bytes =
        PackPortable(x, rows, ActivationKindFor(w.gate.format), &a);
    std::vector<float> sides[2];
    for (int i = 0; i < 2; ++i) {
      std::vector<float> of_side(static_cast<size_t>(ffn));
      for (int64_t c = 0; c < ffn; ++c) {
        of_side[c] = bias[c / 16 * 32 + i * 16 + c % 16];
      }
      sides[i].resize(static_cast<size_t>(rows * ffn));
      MatmulPortable({&pool}, {.a = a,
                               .w = i == 0 ? w.gate : w.up,
                               .bias = of_side.data(),
                               .y = View(sides[i], rows)});
    }
    std::vector<float> y(sides[0].size());
    SiluMulPortable({&pool}, {.gate = ConstView(sides[0], rows),
                              .up = ConstView(sides[1], rows),
                              .y = View(y, rows)});
    return y;
  }
};

TEST_P(GatedMatmulTest, HasTheBitsOfItsParts) {
  const WeightFormat format = GetParam();
  const int64_t k = std::max<int64_t>(96, BlockElements(format));
  const ActivationKind kind = ActivationKindFor(format);
  // 80: five pairs of panels, and half a group for the next product.
  for (int64_t ffn : {80, 512}) {
    VectorSource source(static_cast<uint64_t>(ffn));
    const GateAndUp w = MakeGateAndUp(format, ffn, k, source);
    const std::vector<float> norm = Numbers(source, k);
    const std::vector<float> bias = Numbers(source, 2 * ffn);
    for (int64_t rows : kRowCounts) {
      const std::vector<float> x = Numbers(source, rows * k);
      const std::vector<float> want =
          Separately(w, Normed(x, rows, norm), rows, bias);
      for (const Level& level : kAllLevels) {
        if (!Runs(level.isa)) continue;
        SCOPED_TRACE(Name(level.isa));
        for (int threads : {1, 2, 7}) {
          const ActivationKind next = static_cast<ActivationKind>(
              (rows + threads) % (ffn % 256 == 0 ? 4 : 3));
          Activations want_packed;
          const AlignedBytes want_bytes =
              PackPortable(want, rows, next, &want_packed);
          AlignedBytes packed(want_bytes.size());
          std::memset(packed.data(), 0, static_cast<size_t>(packed.size()));
          const Activations packed_y = {
              .kind = next, .rows = rows, .k = ffn, .bytes = packed.data()};
          AlignedBytes bytes(ActivationBytes(kind, rows, k));
          const PackActivationsArgs pack = {.x = ConstView(x, rows),
                                            .out = {.kind = kind,
                                                    .rows = rows,
                                                    .k = k,
                                                    .bytes = bytes.data()},
                                            .norm_weight = norm.data(),
                                            .epsilon = kEpsilon};
          std::vector<float> y(want.size());
          ThreadPool pool(threads);
          MatmulArgs args = {.a = pack.out,
                             .w = w.paired,
                             .bias = bias.data(),
                             .y = View(y, rows),
                             .pack = &pack,
                             .silu_mul = true};
          level.matmul({&pool}, args);
          ASSERT_EQ(CountDifferent(y.data(), want.data(), rows * ffn), 0)
              << rows << " rows, " << threads << " threads";
          args.packed_y = &packed_y;
          level.matmul({&pool}, args);
          ASSERT_TRUE(SameBytes(packed, want_bytes))
              << rows << " rows, " << threads << " threads";
        }
      }
    }
  }
}

TEST_P(GatedMatmulTest, MatchesFloat64OnRoundedOperands) {
  const WeightFormat format = GetParam();
  constexpr int64_t kFfn = 48;
  constexpr int64_t kRows = 3;
  const int64_t k = std::max<int64_t>(1024, BlockElements(format));
  VectorSource source(3);
  const GateAndUp w = MakeGateAndUp(format, kFfn, k, source);
  const std::vector<float> bias = Numbers(source, 2 * kFfn);
  Activations a;
  const AlignedBytes bytes = PackPortable(Numbers(source, kRows * k), kRows,
                                          ActivationKindFor(format), &a);
  std::vector<double> want(kRows * kFfn);
  std::vector<double> bound(want.size());
  GatedMatmulF64({.a = a,
                  .w = w.paired,
                  .bias = bias.data(),
                  .y = want.data(),
                  .bound = bound.data()});
  std::vector<float> y(want.size());
  ThreadPool pool(2);
  MatmulPortable({&pool}, {.a = a,
                           .w = w.paired,
                           .bias = bias.data(),
                           .y = View(y, kRows),
                           .silu_mul = true});
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(y[i], want[i], bound[i]) << i;
  }
}

// Several products of one operand, packed once by the call.
TEST_P(GatedMatmulTest, MoreProductsInOneCall) {
  const WeightFormat format = GetParam();
  const int64_t k = std::max<int64_t>(96, BlockElements(format));
  const ActivationKind kind = ActivationKindFor(format);
  VectorSource source(9);
  const GateAndUp w = MakeGateAndUp(format, 48, k, source);
  const std::vector<float> bias = Numbers(source, 48);
  for (int64_t rows : {1, 19, 70}) {
    const std::vector<float> x = Numbers(source, rows * k);
    for (const Level& level : kAllLevels) {
      if (!Runs(level.isa)) continue;
      ThreadPool pool(3);
      const std::vector<float> gate =
          Multiply({&pool}, level, x.data(), rows, w.gate);
      const std::vector<float> up =
          Multiply({&pool}, level, x.data(), rows, w.up);
      AlignedBytes bytes(ActivationBytes(kind, rows, k));
      const PackActivationsArgs pack = {
          .x = ConstView(x, rows),
          .out = {.kind = kind, .rows = rows, .k = k, .bytes = bytes.data()}};
      std::vector<float> y(static_cast<size_t>(rows * 96));
      const MatmulPart part = {
          .w = w.up, .bias = bias.data(), .y = {y.data() + 48, rows, 48, 96}};
      const int64_t runs = pool.num_runs();
      level.matmul({&pool}, {.a = pack.out,
                             .w = w.gate,
                             .y = {y.data(), rows, 48, 96},
                             .pack = &pack,
                             .more = {&part, 1}});
      EXPECT_EQ(pool.num_runs(), runs + 1);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < 48; ++c) {
          volatile float want = up[r * 48 + c];
          want = want + bias[c];
          ASSERT_TRUE(SameBits(y[r * 96 + c], gate[r * 48 + c]));
          ASSERT_TRUE(SameBits(y[r * 96 + 48 + c], want));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GatedMatmulTest,
                         testing::ValuesIn(kAllFormats), [](const auto& info) {
                           return std::string(Name(info.param));
                         });

}  // namespace
}  // namespace sluice::kernels
