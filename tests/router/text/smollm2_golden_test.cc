// Every case of the golden files of SmolLM2's tokenizer.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "router/text/detokenizer.h"
#include "tests/router/text/golden_file.h"

namespace sluice::router {
namespace {

using Ids = std::vector<int32_t>;

class SmolLm2GoldenTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    tokenizer_ = MakeGoodTokenizer(SmolLm2Spec()).release();
  }
  static void TearDownTestSuite() { delete tokenizer_; }

  static Encoding Encode(const std::string& text, EncodeOptions options) {
    absl::StatusOr<Encoding> encoding = tokenizer_->Encode(text, options);
    EXPECT_TRUE(encoding.ok()) << encoding.status();
    return encoding.ok() ? *encoding : Encoding();
  }
  static std::string BytesOf(const Ids& ids) {
    std::string bytes;
    for (int32_t id : ids) absl::StrAppend(&bytes, tokenizer_->TokenBytes(id));
    return bytes;
  }

  static Tokenizer* tokenizer_;
};

Tokenizer* SmolLm2GoldenTest::tokenizer_ = nullptr;

TEST_F(SmolLm2GoldenTest, Encodes) {
  const std::vector<nlohmann::json> rows =
      ReadGoldenLines("smollm2_tokenizer.jsonl");
  ASSERT_EQ(rows.size(), 399u);
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row["n"].dump());
    const auto text = row["text"].get<std::string>();
    const Encoding plain = Encode(text, {.parse_special = false});
    EXPECT_EQ(plain.ids, row["ids"].get<Ids>());
    const bool lossless = row["lossless"].get<bool>();
    EXPECT_EQ(plain.unencodable_bytes == 0, lossless);
    EXPECT_EQ(BytesOf(plain.ids) == text, lossless);
    EXPECT_EQ(Encode(text, {.add_special = true, .parse_special = true}).ids,
              row["ids_special"].get<Ids>());
  }
}

TEST_F(SmolLm2GoldenTest, DecodesWhatItEncoded) {
  for (const nlohmann::json& row : ReadGoldenLines("smollm2_tokenizer.jsonl")) {
    SCOPED_TRACE(row["n"].dump());
    const auto ids = row["ids_special"].get<Ids>();
    EXPECT_EQ(Detokenize(*tokenizer_, ids,
                         {.skip_special_tokens = false, .at_text_start = true}),
              row["decoded"].get<std::string>());
    EXPECT_EQ(Detokenize(*tokenizer_, ids,
                         {.skip_special_tokens = true, .at_text_start = true}),
              row["decoded_skip_special"].get<std::string>());
  }
}

TEST_F(SmolLm2GoldenTest, DetokenizesCutCodePoints) {
  const std::vector<nlohmann::json> rows =
      ReadGoldenLines("smollm2_detokenizer.jsonl");
  ASSERT_EQ(rows.size(), 128u);
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row["n"].dump());
    const auto ids = row["ids"].get<Ids>();
    EXPECT_EQ(absl::BytesToHexString(BytesOf(ids)),
              row["bytes_hex"].get<std::string>());
    EXPECT_EQ(Detokenize(*tokenizer_, ids, {.skip_special_tokens = true}),
              row["text_skip_special"].get<std::string>());

    Detokenizer detokenizer(tokenizer_, {.skip_special_tokens = false});
    std::string text;
    for (int32_t id : ids) {
      const std::string delta = detokenizer.Feed(id);
      // A chunk is valid UTF-8 by itself: JSON refuses it otherwise.
      EXPECT_NO_THROW(nlohmann::json(delta).dump());
      text += delta;
    }
    text += detokenizer.Finish();
    EXPECT_EQ(text, row["text"].get<std::string>());
  }
}

TEST_F(SmolLm2GoldenTest, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(tokenizer_->bos_id(), 1);
  EXPECT_EQ(tokenizer_->eos_id(), 2);
  EXPECT_EQ(tokenizer_->eos_ids(), Ids({2}));
  EXPECT_TRUE(tokenizer_->IsSpecial(16));
  EXPECT_FALSE(tokenizer_->IsSpecial(17));
  EXPECT_FALSE(tokenizer_->IsSpecial(-1));
  EXPECT_EQ(tokenizer_->TokenBytes(49152), "");
}

TEST_F(SmolLm2GoldenTest, LongPiecesTakeTheHeapPath) {
  // The same piece cut at any length gives ids that spell the same bytes.
  for (size_t size : {63, 64, 65, 66, 1000, 100000}) {
    const std::string text(size, 'a');
    const Encoding encoding = Encode(text, {});
    EXPECT_EQ(BytesOf(encoding.ids), text) << size;
  }
}

TEST_F(SmolLm2GoldenTest, RefusesInvalidUtf8) {
  const absl::StatusOr<Encoding> encoding = tokenizer_->Encode("ab\xFF", {});
  EXPECT_EQ(encoding.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(encoding.status().message(), "text is not valid UTF-8 at byte 2");
}

}  // namespace
}  // namespace sluice::router
