#include "kernels/packed_matrix.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/embedding.h"
#include "kernels/quant/bf16.h"
#include "kernels/quant/f16.h"
#include "kernels/quant/q4_0.h"
#include "kernels/quant/q4_1.h"
#include "kernels/quant/q4_k.h"
#include "kernels/quant/q5_0.h"
#include "kernels/quant/q5_1.h"
#include "kernels/quant/q5_k.h"
#include "kernels/quant/q6_k.h"
#include "kernels/quant/q8_0.h"
#include "tests/kernels/matmul_cases.h"

namespace sluice::kernels {
namespace {

// A stored row by the scalar code of kernels/quant alone.
std::vector<float> DecodeStoredRow(WeightFormat format, const uint8_t* row,
                                   int64_t k) {
  std::vector<float> out(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; i += BlockElements(format)) {
    uint16_t half = 0;
    switch (format) {
      case WeightFormat::kF32:
        std::memcpy(&out[i], row + 4 * i, 4);
        break;
      case WeightFormat::kF16:
        std::memcpy(&half, row + 2 * i, 2);
        out[i] = F16ToF32(half);
        break;
      case WeightFormat::kBF16:
        std::memcpy(&half, row + 2 * i, 2);
        out[i] = Bf16ToF32(half);
        break;
      case WeightFormat::kQ8_0:
        DecodeQ8_0(row + i / 32 * kQ8_0BlockBytes, &out[i]);
        break;
      case WeightFormat::kQ4_0:
        DecodeQ4_0(row + i / 32 * kQ4_0BlockBytes, &out[i]);
        break;
      case WeightFormat::kQ4_1:
        DecodeQ4_1(row + i / 32 * kQ4_1BlockBytes, &out[i]);
        break;
      case WeightFormat::kQ5_0:
        DecodeQ5_0(row + i / 32 * kQ5_0BlockBytes, &out[i]);
        break;
      case WeightFormat::kQ5_1:
        DecodeQ5_1(row + i / 32 * kQ5_1BlockBytes, &out[i]);
        break;
      case WeightFormat::kQ4_K:
        DecodeQ4_K(row + i / 256 * kQ4_KBlockBytes, &out[i]);
        break;
      case WeightFormat::kQ5_K:
        DecodeQ5_K(row + i / 256 * kQ5_KBlockBytes, &out[i]);
        break;
      case WeightFormat::kQ6_K:
        DecodeQ6_K(row + i / 256 * kQ6_KBlockBytes, &out[i]);
        break;
    }
  }
  return out;
}

struct Case {
  WeightFormat format;
  int64_t k;
};

class PackedMatrixTest : public testing::TestWithParam<Case> {
 protected:
  ThreadPool pool_{2};
};

// Random bytes: every scale and code, NaN and infinite scales included.
TEST_P(PackedMatrixTest, RowsDecodeAsStored) {
  const auto [format, k] = GetParam();
  const int64_t row_bytes = StoredRowBytes(format, k);
  VectorSource source(3);
  std::vector<uint8_t> stored(static_cast<size_t>(53 * row_bytes));
  for (uint8_t& b : stored) b = static_cast<uint8_t>(source.Bits());
  const StoredRows parts[] = {{stored.data(), 20},
                              {stored.data() + 20 * row_bytes, 0},
                              {stored.data() + 20 * row_bytes, 1},
                              {stored.data() + 21 * row_bytes, 32}};
  for (bool widen : {false, true}) {
    const WeightFormat packed_as = widen ? WeightFormat::kF32 : format;
    AlignedBytes bytes(PackedBytes(packed_as, 53, k));
    std::memset(bytes.data(), 0xa5, static_cast<size_t>(bytes.size()));
    const PackedMatrix matrix =
        PackMatrix({&pool_}, {.format = format,
                              .k = k,
                              .parts = parts,
                              .widen_to_f32 = widen,
                              .packed_bytes = bytes.data()});
    EXPECT_EQ(matrix.format, packed_as);
    EXPECT_EQ(matrix.n, 53);
    EXPECT_EQ(matrix.k, k);
    std::vector<int32_t> ids = {52, 0, 19, 20, 21, 37, 0};
    std::vector<float> y(ids.size() * static_cast<size_t>(k));
    EmbeddingPortable({&pool_},
                      {.ids = ids, .table = matrix, .y = {y.data(), 7, k, k}});
    for (size_t t = 0; t < ids.size(); ++t) {
      const std::vector<float> want =
          DecodeStoredRow(format, &stored[ids[t] * row_bytes], k);
      ASSERT_EQ(CountDifferent(&y[t * k], want.data(), k), 0)
          << "row " << ids[t] << " widen " << widen;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, PackedMatrixTest,
    testing::Values(
        Case{WeightFormat::kF32, 64}, Case{WeightFormat::kF32, 45},
        Case{WeightFormat::kF16, 64}, Case{WeightFormat::kF16, 1},
        Case{WeightFormat::kBF16, 96}, Case{WeightFormat::kBF16, 33},
        Case{WeightFormat::kQ8_0, 96}, Case{WeightFormat::kQ4_0, 96},
        Case{WeightFormat::kQ4_1, 96}, Case{WeightFormat::kQ5_0, 96},
        Case{WeightFormat::kQ5_1, 96}, Case{WeightFormat::kQ4_K, 512},
        Case{WeightFormat::kQ5_K, 512}, Case{WeightFormat::kQ6_K, 512}),
    [](const auto& info) {
      return std::string(Name(info.param.format)) + "K" +
             std::to_string(info.param.k);
    });

// Blocks of random codes and what the gguf package makes of them.
TEST(QuantBlocks, DecodeAsTheGgufPackage) {
  struct {
    const char* name;
    WeightFormat format;
  } const kFiles[] = {{"q5_0", WeightFormat::kQ5_0},
                      {"q5_1", WeightFormat::kQ5_1},
                      {"q4_k", WeightFormat::kQ4_K},
                      {"q5_k", WeightFormat::kQ5_K},
                      {"q6_k", WeightFormat::kQ6_K}};
  for (const auto& [name, format] : kFiles) {
    std::ifstream file(std::string("tests/golden/quant/") + name + ".bin",
                       std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    const int64_t k = 8 * BlockElements(format);
    const int64_t stored = StoredRowBytes(format, k);
    ASSERT_EQ(static_cast<int64_t>(bytes.size()), stored + 4 * k) << name;
    std::vector<float> want(static_cast<size_t>(k));
    std::memcpy(want.data(), bytes.data() + stored, static_cast<size_t>(4 * k));
    const std::vector<float> got = DecodeStoredRow(
        format, reinterpret_cast<const uint8_t*>(bytes.data()), k);
    EXPECT_EQ(CountDifferent(got.data(), want.data(), k), 0) << name;
  }
}

// Worked examples of the GGUF specification.
TEST(QuantBlocks, WorkedExamples) {
  uint8_t q4_0[kQ4_0BlockBytes] = {0x00, 0x38, 0x1f};  // d = 0.5
  float out[32];
  DecodeQ4_0(q4_0, out);
  EXPECT_EQ(out[0], 3.5f);
  EXPECT_EQ(out[16], -3.5f);
  uint8_t q4_1[kQ4_1BlockBytes] = {0x00, 0x38, 0x00, 0x3c, 0x1f};  // m = 1
  DecodeQ4_1(q4_1, out);
  EXPECT_EQ(out[0], 8.5f);
  EXPECT_EQ(out[16], 1.5f);
  uint8_t q8_0[kQ8_0BlockBytes] = {0x00, 0x38, 0x80, 0x7f};
  DecodeQ8_0(q8_0, out);
  EXPECT_EQ(out[0], -64.0f);
  EXPECT_EQ(out[1], 63.5f);
}

TEST(QuantBlocks, EncodeThenDecodeIsWithinHalfAStep) {
  VectorSource source(11);
  struct {
    void (*encode)(const float*, uint8_t*);
    void (*decode)(const uint8_t*, float*);
    float steps;  // between the group's extremes
  } const kCodecs[] = {{EncodeQ8_0, DecodeQ8_0, 254},
                       {EncodeQ4_0, DecodeQ4_0, 15},
                       {EncodeQ4_1, DecodeQ4_1, 15}};
  for (const auto& codec : kCodecs) {
    for (int i = 0; i < 200; ++i) {
      float x[32];
      float y[32];
      uint8_t block[34];
      source.FillActivations(VectorKind::kUnit, x);
      float amax = 0;
      for (float v : x) amax = std::max(amax, std::abs(v));
      codec.encode(x, block);
      codec.decode(block, y);
      // Q4_0 has no code for +8 steps; f16 rounds the scale itself.
      const float bound = 2 * amax / codec.steps * 1.07f;
      for (int j = 0; j < 32; ++j) ASSERT_NEAR(x[j], y[j], bound) << i;
    }
  }
}

TEST(Halves, RoundTripAndNearestEven) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = F16ToF32(static_cast<uint16_t>(half));
    if (value != value) continue;
    ASSERT_EQ(F32ToF16(value), half);
  }
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);  // half-way to 65536: even is inf
  EXPECT_EQ(F32ToF16(65519.0f), 0x7bff);
  EXPECT_EQ(F32ToF16(0x1p-25f), 0x0000);  // half of the least subnormal
  EXPECT_EQ(F32ToF16(0x1.8p-24f), 0x0002);
  EXPECT_EQ(F32ToF16(0x1.002p0f), 0x3c00);  // ties go to even
  EXPECT_EQ(F32ToF16(0x1.006p0f), 0x3c02);
  EXPECT_EQ(F32ToF16(-0x1.ff8p-15f), 0x83ff);
  EXPECT_EQ(F32ToF16(-0x1.ffcp-15f), 0x8400);
}

TEST(Bf16, NearestEvenAndSubnormals) {
  EXPECT_EQ(F32ToBf16(1.0f), 0x3f80);
  EXPECT_EQ(F32ToBf16(0x1.01p0f), 0x3f80);
  EXPECT_EQ(F32ToBf16(0x1.03p0f), 0x3f82);
  EXPECT_EQ(F32ToBf16(-0x1p-127f), 0x8000);
  EXPECT_EQ(F32ToBf16(0x1.fffffep127f), 0x7f80);
  EXPECT_NE(F32ToBf16(std::nanf("")) & 0x7f, 0);
}

}  // namespace
}  // namespace sluice::kernels
