#include "worker/model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice::worker {
namespace {

std::string FileOf(absl::string_view header, size_t data_bytes) {
  std::string bytes(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, 8);
  return absl::StrCat(bytes, header, std::string(data_bytes, 'd'));
}

absl::Status Parse(absl::string_view bytes) {
  WeightFile weights;
  return AddSafetensors(bytes, "x.safetensors", nullptr, &weights);
}

std::string Entry(absl::string_view name, absl::string_view dtype,
                  absl::string_view shape, absl::string_view offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype,
                      "\",\"shape\":", shape, ",\"data_offsets\":", offsets,
                      "}");
}

// A new folder with these files.
std::string FolderOf(
    const std::string& name,
    const std::vector<std::pair<std::string, std::string>>& files) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/", name);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const auto& [file, bytes] : files) {
    std::ofstream(absl::StrCat(folder, "/", file), std::ios::binary) << bytes;
  }
  return folder;
}

TEST(Safetensors, ReadsEveryDtype) {
  const std::string header =
      absl::StrCat("{\"__metadata__\":{\"format\":\"pt\"},",
                   Entry("f", "F32", "[2,1]", "[0,8]"), ",",
                   Entry("b", "BF16", "[3]", "[8,14]"), ",",
                   Entry("h", "F16", "[]", "[14,16]"), ",",
                   Entry("e", "F8_E4M3", "[4]", "[16,20]"), ",",
                   Entry("z", "I64", "[0,7]", "[20,20]"), "}");
  WeightFile weights;
  const std::string bytes = FileOf(header, 20);
  ASSERT_TRUE(AddSafetensors(bytes, "x", nullptr, &weights).ok());
  EXPECT_EQ(weights.tensors().size(), 5u);
  EXPECT_EQ(weights.Find("f")->shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(weights.Find("b")->format, kernels::WeightFormat::kBF16);
  EXPECT_EQ(weights.Find("h")->num_bytes, 2u);
  EXPECT_TRUE(weights.Want("f", {2, 1}).ok());
  EXPECT_EQ(weights.Want("e", {4}).status().message(),
            "tensor e: safetensors type F8_E4M3 is not supported");
}

TEST(Safetensors, CorruptFiles) {
  using absl::StatusCode;
  struct Case {
    std::string bytes;
    StatusCode code;
    std::string text;
  };
  const auto one = [](absl::string_view entry) {
    return FileOf(absl::StrCat("{", entry, "}"), 16);
  };
  const Case cases[] = {
      {"", StatusCode::kDataLoss, "ends inside the header's length"},
      {std::string(8, '\xff'), StatusCode::kDataLoss, "wanted a header of"},
      {FileOf("{", 0), StatusCode::kDataLoss, "not valid JSON"},
      {FileOf("[]", 0), StatusCode::kDataLoss, "not a JSON object"},
      {one("\"a\":1"), StatusCode::kDataLoss, "tensor a: its entry"},
      {one("\"a\":{}"), StatusCode::kDataLoss, "tensor a: dtype is missing"},
      {one(Entry("a", "F32", "{}", "[0,4]")), StatusCode::kDataLoss,
       "tensor a: shape is missing"},
      {one(Entry("a", "F32", "[1]", "[0]")), StatusCode::kDataLoss,
       "tensor a: data_offsets"},
      {one(Entry("a", "F32", "[1]", "[-4,0]")), StatusCode::kDataLoss,
       "tensor a: data_offsets"},
      {one(Entry("a", "F4", "[1]", "[0,4]")), StatusCode::kUnimplemented,
       "tensor a: safetensors type F4 is not supported"},
      {one(Entry("a", "F32", "[-1]", "[0,4]")), StatusCode::kDataLoss,
       "tensor a: a dimension is -1"},
      {one(Entry("a", "F32", "[1.5]", "[0,4]")), StatusCode::kDataLoss,
       "tensor a: a dimension is 1.5"},
      {one(Entry("a", "F32", "[99999999999,99999999999]", "[0,4]")),
       StatusCode::kDataLoss, "out of range"},
      {one(Entry("a", "F32", "[2]", "[8,4]")), StatusCode::kDataLoss,
       "wanted bytes [8, 4), found 16"},
      {one(Entry("a", "F32", "[5]", "[0,20]")), StatusCode::kDataLoss,
       "wanted bytes [0, 20), found 16"},
      {one(Entry("a", "F32", "[2]", "[0,12]")), StatusCode::kDataLoss,
       "shape [2] of F32 wanted 8 bytes, found 12"},
      {one(absl::StrCat(Entry("a", "F32", "[2]", "[0,8]"), ",",
                        Entry("b", "F32", "[2]", "[4,12]"))),
       StatusCode::kDataLoss, "tensor b: its bytes overlap those of a"},
      {one(absl::StrCat(Entry("a", "F32", "[2]", "[0,8]"), ",",
                        Entry("a", "F32", "[2]", "[8,16]"))),
       StatusCode::kDataLoss, "tensor a: two tensors of this name"},
  };
  for (const Case& c : cases) {
    const absl::Status status = Parse(c.bytes);
    EXPECT_EQ(status.code(), c.code) << status << " wanted " << c.text;
    EXPECT_TRUE(absl::StrContains(status.message(), c.text)) << status;
    EXPECT_TRUE(absl::StartsWith(status.message(), "x.safetensors: "))
        << status;
  }
}

TEST(SafetensorsFolder, IndexNamesTheFiles) {
  const std::string a =
      FileOf("{" + Entry("a", "F32", "[1]", "[0,4]") + "}", 4);
  const std::string b =
      FileOf("{" + Entry("b", "F32", "[1]", "[0,4]") + "}", 4);
  const std::string index =
      "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}";
  // The third file is not of the model.
  auto weights = ReadSafetensorsFolder(
      FolderOf("index", {{"1.safetensors", a},
                         {"2.safetensors", b},
                         {"3.safetensors", "junk"},
                         {"model.safetensors.index.json", index}}));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->tensors().size(), 2u);
  // Without an index every file is.
  weights = ReadSafetensorsFolder(
      FolderOf("all", {{"1.safetensors", a}, {"2.safetensors", b}}));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE(weights->Has("b"));
}

TEST(SafetensorsFolder, Errors) {
  using absl::StatusCode;
  const std::string a =
      FileOf("{" + Entry("a", "F32", "[1]", "[0,4]") + "}", 4);
  const auto read = [](const std::string& folder) {
    return ReadSafetensorsFolder(folder).status();
  };
  EXPECT_EQ(read("/nonexistent").code(), StatusCode::kNotFound);
  EXPECT_EQ(read(FolderOf("none", {})).code(), StatusCode::kNotFound);
  absl::Status status =
      read(FolderOf("twice", {{"1.safetensors", a}, {"2.safetensors", a}}));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "a: in two files"));
  const char kIndex[] = "model.safetensors.index.json";
  EXPECT_EQ(read(FolderOf("i1", {{kIndex, "{"}})).code(),
            StatusCode::kDataLoss);
  EXPECT_EQ(read(FolderOf("i2", {{kIndex, "{\"weight_map\":{}}"}})).code(),
            StatusCode::kDataLoss);
  status = read(FolderOf(
      "i3", {{kIndex, "{\"weight_map\":{\"a\":\"../x.safetensors\"}}"}}));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "../x.safetensors"));
  EXPECT_EQ(
      read(FolderOf("i4", {{kIndex, "{\"weight_map\":{\"a\":\"gone\"}}"}}))
          .code(),
      StatusCode::kNotFound);
}

// Hundreds of shards cost hundreds of mappings, whoever looks at them.
TEST(SafetensorsFolder, OneMappingForEachShard) {
  std::vector<std::pair<std::string, std::string>> files;
  for (int i = 0; i < 300; ++i) {
    files.push_back(
        {absl::StrCat(i, ".safetensors"),
         FileOf(
             absl::StrCat(
                 "{", Entry(absl::StrCat("a", i), "F32", "[1]", "[0,4]"), ",",
                 Entry(absl::StrCat("b", i), "F32", "[1]", "[4,8]"), "}"),
             8)});
  }
  const auto weights = ReadSafetensorsFolder(FolderOf("shards", files));
  ASSERT_TRUE(weights.ok()) << weights.status();
  std::set<const MappedFile*> mappings;
  for (int view = 0; view < 40; ++view) {
    for (const auto& [name, tensor] : weights->tensors()) {
      ASSERT_TRUE(weights->Want(name, {1}).ok());
      mappings.insert(tensor.file.get());
    }
  }
  EXPECT_EQ(mappings.size(), 300u);
  EXPECT_EQ(weights->tensors().size(), 600u);
}

TEST(MappedFile, AFileCutWhileMappedIsNoticed) {
  const std::string folder = FolderOf(
      "cut", {{"1.safetensors",
               FileOf("{" + Entry("a", "F32", "[1]", "[0,4]") + "}", 4)}});
  const auto weights = ReadSafetensorsFolder(folder);
  ASSERT_TRUE(weights.ok());
  std::filesystem::resize_file(folder + "/1.safetensors", 10);
  EXPECT_EQ(weights->Want("a", {1}).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace sluice::worker
