// Small tokenizers of every supported kind against Hugging Face tokenizers and
// SentencePiece; tests/golden/make_small_tokenizers.py made the cases.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "router/text/detokenizer.h"
#include "router/text/tokenizer.h"
#include "tests/router/text/golden_file.h"

namespace sluice::router {
namespace {

using Ids = std::vector<int32_t>;

bool IsSpm(const std::string& name) { return name.rfind("spm_", 0) == 0; }

TokenizerSpec SpecOf(const std::string& name) {
  if (!IsSpm(name)) return JsonSpec(name + ".json");
  const nlohmann::json data = ReadGoldenJson("tokenizers/" + name + ".json");
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSpm;
  spec.tokens = data["tokens"].get<std::vector<std::string>>();
  spec.scores = data["scores"].get<std::vector<float>>();
  spec.types = data["types"].get<std::vector<int32_t>>();
  spec.bos_id = data["bos_id"].get<int32_t>();
  spec.eos_id = data["eos_id"].get<int32_t>();
  spec.unk_id = data["unk_id"].get<int32_t>();
  spec.add_bos = true;
  spec.add_space_prefix = true;
  return spec;
}

// null: the oracle's answer is not ours, by intent.
void ExpectIds(const Ids& ids, const nlohmann::json& expected) {
  if (expected.is_null()) return;
  EXPECT_EQ(ids, expected.get<Ids>());
}

class SmallTokenizersTest : public testing::TestWithParam<const char*> {};

TEST_P(SmallTokenizersTest, AgreesWithItsOracle) {
  const std::string name = GetParam();
  const std::unique_ptr<Tokenizer> tokenizer = MakeGoodTokenizer(SpecOf(name));
  const std::vector<nlohmann::json> texts =
      ReadGoldenLines("smollm2_tokenizer.jsonl");
  const std::vector<nlohmann::json> rows =
      ReadGoldenLines("tokenizers/" + name + "_cases.jsonl");
  ASSERT_GT(rows.size(), 400u);
  int num_decoded = 0;
  for (size_t n = 0; n < rows.size(); ++n) {
    const nlohmann::json& row = rows[n];
    const std::string text = row.contains("text")
                                 ? row["text"].get<std::string>()
                                 : texts.at(n)["text"].get<std::string>();
    SCOPED_TRACE(testing::Message() << n << ": " << text);
    const absl::StatusOr<Encoding> plain = tokenizer->Encode(text, {});
    ASSERT_TRUE(plain.ok()) << plain.status();
    ExpectIds(plain->ids, row["plain"]);
    const absl::StatusOr<Encoding> full = tokenizer->Encode(
        text, {.add_special = true, .parse_special = !IsSpm(name)});
    ASSERT_TRUE(full.ok()) << full.status();
    ExpectIds(full->ids, row["ids"]);

    if (row["decoded"].is_null()) continue;
    ++num_decoded;
    EXPECT_EQ(Detokenize(*tokenizer, row["plain"].get<Ids>(),
                         {.skip_special_tokens = false, .at_text_start = true}),
              row["decoded"].get<std::string>());
  }
  EXPECT_GT(num_decoded, 150);
}

INSTANTIATE_TEST_SUITE_P(All, SmallTokenizersTest,
                         testing::Values("byte_llama3", "byte_qwen2",
                                         "byte_gpt2_prefix", "char_llama2",
                                         "char_metaspace_first", "char_gemma",
                                         "unigram", "unigram_bytes",
                                         "spm_bytes", "spm_unk"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace sluice::router
