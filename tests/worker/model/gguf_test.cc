#include "worker/model/gguf.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/worker/model/gguf_writer.h"

namespace sluice::worker {
namespace {

absl::StatusOr<GgufFile> Parse(absl::string_view bytes) {
  return ParseGguf(bytes, "test.gguf", nullptr);
}

GgufWriter OneTensor() {
  GgufWriter writer;
  writer.String("general.architecture", "llama")
      .Tensor("a", {2, 3}, 0, std::string(24, '\1'));
  return writer;
}

void ExpectError(const std::string& bytes, absl::StatusCode code,
                 absl::string_view text) {
  const absl::Status status = Parse(bytes).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), text)) << status;
  EXPECT_TRUE(absl::StartsWith(status.message(), "test.gguf: ")) << status;
}

TEST(Gguf, ReadsKeysAndTensorsOfBothVersions) {
  for (uint32_t version : {2u, 3u}) {
    GgufWriter writer(version);
    writer.U32("u", 7)
        .I32("i", -7)
        .U64("big", uint64_t{1} << 40)
        .F32("f", 0.5f)
        .Bool("b", true)
        .String("s", "text")
        .Strings("list", {"x", "", "yz"})
        .I32s("ints", {1, -2})
        .Tensor("one", {32}, 8, std::string(34, 'q'))
        .Tensor("two", {2, 3}, 0, std::string(24, '\1'));
    const std::string bytes = writer.Build();
    const auto file = Parse(bytes);
    ASSERT_TRUE(file.ok()) << file.status();
    const GgufMetadata& m = file->metadata;
    EXPECT_EQ(file->version, version);
    EXPECT_EQ(*m.Count("u"), 7);
    EXPECT_EQ(m.Count("i").status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(*m.Count("big"), int64_t{1} << 40);
    EXPECT_EQ(*m.Number("f"), 0.5);
    EXPECT_EQ(*m.Number("i"), -7);
    EXPECT_TRUE(*m.Bool("b"));
    EXPECT_EQ(*m.String("s"), "text");
    EXPECT_EQ(*m.Strings("list"), (std::vector<std::string>{"x", "", "yz"}));
    EXPECT_EQ(*m.Numbers("ints"), (std::vector<double>{1, -2}));
    EXPECT_EQ(m.String("none").status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(m.String("u").status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(*m.CountOr("none", 5), 5);

    const StoredTensor* two = file->weights.Find("two");
    ASSERT_NE(two, nullptr);
    EXPECT_EQ(two->shape, (std::vector<int64_t>{3, 2}));
    EXPECT_EQ(two->num_bytes, 24u);
    EXPECT_EQ(two->bytes[0], 1);
    const StoredTensor* one = file->weights.Find("one");
    ASSERT_NE(one, nullptr);
    EXPECT_EQ(one->format, kernels::WeightFormat::kQ8_0);
    EXPECT_EQ(one->num_bytes, 34u);
    EXPECT_EQ(one->bytes[33], 'q');
  }
}

TEST(Gguf, HonoursAlignment) {
  GgufWriter writer;
  writer.set_alignment(256);
  writer.U32("general.alignment", 256)
      .Tensor("a", {8}, 0, std::string(32, '\2'))
      .Tensor("b", {8}, 0, std::string(32, '\3'));
  const std::string bytes = writer.Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->weights.Find("b")->bytes[31], 3);
}

TEST(Gguf, UnsupportedTypesLoadButCannotBeWanted) {
  GgufWriter writer;
  writer.Tensor("w", {256}, 10, std::string(84, '\0'));
  const std::string bytes = writer.Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status status = file->weights.Want("w", {256}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "tensor w: GGUF type Q2_K is not supported");
}

TEST(Gguf, EveryPrefixIsAnErrorAndNeverACrash) {
  GgufWriter writer = OneTensor();
  writer.Strings("list", {"x", "yz"}).I32s("ints", {1, 2});
  const std::string bytes = writer.Build();
  // Trailing padding may go: the tensor's 24 bytes end 8 before the end.
  for (size_t size = 0; size + 8 < bytes.size(); ++size) {
    EXPECT_FALSE(Parse(bytes.substr(0, size)).ok()) << size;
  }
}

TEST(Gguf, MalformedFiles) {
  using absl::StatusCode;
  std::string bytes = OneTensor().Build();
  ExpectError("", StatusCode::kDataLoss, "does not start with GGUF");
  ExpectError("GGML" + bytes.substr(4), StatusCode::kDataLoss,
              "does not start with GGUF");
  ExpectError(GgufWriter(1).Build(), StatusCode::kUnimplemented,
              "GGUF version 1, wanted 2 or 3");
  ExpectError(
      bytes.substr(0, 8) + BytesOf<uint64_t>(1ull << 60) + bytes.substr(16),
      StatusCode::kDataLoss, "cannot fit");
  ExpectError(
      bytes.substr(0, 16) + BytesOf<uint64_t>(1ull << 60) + bytes.substr(24),
      StatusCode::kDataLoss, "cannot fit");

  GgufWriter writer = OneTensor();
  writer.Raw("huge", 9, BytesOf<uint32_t>(4) + BytesOf<uint64_t>(1ull << 61));
  ExpectError(writer.Build(), StatusCode::kDataLoss, "key huge: array of");

  writer = OneTensor();
  writer.Raw("nested", 9, BytesOf<uint32_t>(9) + BytesOf<uint64_t>(1));
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "key nested: array of unknown element type 9");

  writer = OneTensor();
  writer.Raw("odd", 13, "");
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "key odd: unknown value type 13");

  writer = OneTensor();
  writer.U32("twice", 1).U32("twice", 2);
  ExpectError(writer.Build(), StatusCode::kDataLoss, "key twice comes twice");

  writer = OneTensor();
  writer.U32("general.alignment", 48);
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "general.alignment must be a power of two, got 48");
}

TEST(Gguf, MalformedTensors) {
  using absl::StatusCode;
  GgufWriter writer = OneTensor();
  writer.Tensor("a", {2}, 0, std::string(8, '\0'));
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "a: two tensors of this name");

  writer = OneTensor();
  writer.Tensor("t", {1, 1, 1, 1, 1}, 0, std::string(4, '\0'));
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "tensor t: wanted at most 4 dimensions, found 5");

  writer = OneTensor();
  writer.Tensor("t", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, "");
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "tensor t: dimension 1 of 1099511627776 is out of range");

  writer = OneTensor();
  writer.Tensor("t", {0}, 0, "");
  ExpectError(writer.Build(), StatusCode::kDataLoss, "tensor t: dimension 0");

  writer = OneTensor();
  writer.Tensor("t", {4}, 4, std::string(4, '\0'));
  ExpectError(writer.Build(), StatusCode::kUnimplemented,
              "tensor t: GGUF type 4 is not supported");

  writer = OneTensor();
  writer.Tensor("t", {33, 2}, 2, std::string(40, '\0'));
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "tensor t: rows of 33 values are no multiple of 32");

  // Shorter than its shape says.
  writer = OneTensor();
  writer.Tensor("t", {32, 2}, 2, std::string(18, '\0'));
  ExpectError(writer.Build(), StatusCode::kDataLoss,
              "tensor t: wanted 36 bytes at offset 32, found 32");
}

TEST(Gguf, OverlapAndMisalignedOffsets) {
  // The offset is the last 8 bytes of the tensor table.
  GgufWriter writer = OneTensor();
  writer.Tensor("t", {2}, 0, std::string(8, '\0'));
  std::string bytes = writer.Build();
  const size_t table_end = bytes.find(BytesOf<uint64_t>(32), 30);
  ASSERT_NE(table_end, std::string::npos);
  bytes.replace(table_end, 8, BytesOf<uint64_t>(0));
  ExpectError(bytes, absl::StatusCode::kDataLoss, "its bytes overlap those of");
  bytes.replace(table_end, 8, BytesOf<uint64_t>(33));
  ExpectError(bytes, absl::StatusCode::kDataLoss,
              "tensor t: offset 33 is no multiple of 32");
}

TEST(Gguf, WantedShapesAndNames) {
  const std::string bytes = OneTensor().Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->weights.Want("a", {3, 2}).ok());
  EXPECT_EQ(file->weights.Want("a", {2, 3}).status().message(),
            "tensor a: wanted shape [2, 3], found [3, 2]");
  EXPECT_EQ(file->weights.Want("b", {1}).status().message(),
            "tensor b: wanted shape [1], found no such tensor");
}

}  // namespace
}  // namespace sluice::worker
