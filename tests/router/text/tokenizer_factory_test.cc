#include "router/text/tokenizer_factory.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "router/text/tokenizer_config.h"
#include "tests/router/text/golden_file.h"

namespace sluice::router {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

TokenizerSpec SmallBpe() {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kBpe;
  spec.tokens = {"<s>", "a", "b", "c", "ab", "abc"};
  spec.types = {3, 1, 1, 1, 1, 1};
  spec.merges = {"a b", "ab c"};
  spec.pre = "gpt-2";
  spec.bos_id = 0;
  return spec;
}

TokenizerSpec SmallSpm() {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSpm;
  spec.tokens = {"<unk>", "<0x41>", "a", "aa"};
  spec.types = {2, 6, 1, 1};
  spec.scores = {0, 0, -1, -2};
  spec.unk_id = 0;
  return spec;
}

Json SmallJson() {
  return Json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3},
              "merges": ["a b", ["ab", "a"]]}})");
}

TokenizerSpec SpecOf(const Json& json) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kTokenizerJson;
  spec.tokenizer_json = json.dump();
  return spec;
}

void ExpectRefused(const TokenizerSpec& spec, const std::string& error) {
  const absl::Status status = MakeTokenizer(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << error;
  EXPECT_TRUE(absl::StrContains(status.message(), error))
      << "wanted: " << error << "\ngot: " << status;
}

TEST(TokenizerFactoryTest, RefusesBadGgufMetadata) {
  const struct {
    std::function<void(TokenizerSpec&)> spoil;
    const char* error;
  } cases[] = {
      {[](auto& s) { s.kind = static_cast<TokenizerKind>(9); },
       "tokenizer kind 9 is unknown"},
      {[](auto& s) { s.tokens.clear(); }, "no tokens"},
      {[](auto& s) { s.tokens[2] = "a"; }, "token 2 \"a\" repeats token 1"},
      {[](auto& s) { s.tokens[2] = "\xFF"; }, "token 2 is not UTF-8"},
      {[](auto& s) { s.tokens[2].assign(70000, 'x'); },
       "token bytes 70000 exceeds 65536"},
      {[](auto& s) { s.types.pop_back(); }, "5 token types for 6 tokens"},
      {[](auto& s) { s.types[1] = 7; }, "token 1 has type 7"},
      {[](auto& s) { s.pre = "nosuch"; },
       "pre-tokenizer \"nosuch\" is not supported; known: gpt-2"},
      {[](auto& s) { s.merges[1] = "abc"; }, "merge 1 \"abc\" is not two"},
      {[](auto& s) { s.merges[1] = "ab "; }, "merge 1 \"ab \" is not two"},
      {[](auto& s) { s.merges[1] = "a d"; },
       "merge 1 \"a d\" uses a token that is missing"},
      {[](auto& s) { s.merges[1] = "b c"; },
       "merge 1 \"b c\" uses a token that is missing"},
      {[](auto& s) { s.merges[1] = "a b"; }, "repeats an earlier one"},
      {[](auto& s) { s.bos_id = 6; }, "bos id 6 is outside [0, 6)"},
      {[](auto& s) { s.eos_id = -2; }, "eos id -2 is outside"},
      {[](auto& s) {
         s.eos_ids = {1, 99};
       },
       "eos id 99 is outside"},
      {[](auto& s) { s.pad_id = 6; }, "pad id 6 is outside"},
      {[](auto& s) { s.add_eos = true; }, "add_eos without an EOS id"},
      {[](auto& s) { s.tokens.resize((1 << 22) + 1); },
       "vocabulary 4194305 exceeds 4194304"},
      {[](auto& s) { s.merges.resize((1 << 22) + 1); },
       "merges 4194305 exceeds 4194304"},
  };
  EXPECT_TRUE(MakeTokenizer(SmallBpe()).ok());
  for (const auto& c : cases) {
    TokenizerSpec spec = SmallBpe();
    c.spoil(spec);
    ExpectRefused(spec, c.error);
  }
}

TEST(TokenizerFactoryTest, RefusesBadSpmMetadata) {
  EXPECT_TRUE(MakeTokenizer(SmallSpm()).ok());
  TokenizerSpec spec = SmallSpm();
  spec.scores.pop_back();
  ExpectRefused(spec, "3 scores for 4 tokens");
  spec = SmallSpm();
  spec.scores[3] = std::numeric_limits<float>::quiet_NaN();
  ExpectRefused(spec, "score of token 3 is nan");
  spec = SmallSpm();
  spec.tokens[1] = "<0xZZ>";
  ExpectRefused(spec, "byte token 1 is \"<0xZZ>\"");
}

TEST(TokenizerFactoryTest, RefusesBadTokenizerJson) {
  const struct {
    std::function<void(Json&)> spoil;
    const char* error;
  } cases[] = {
      {[](Json& j) { j = Json::array(); }, "not an object"},
      {[](Json& j) { j.erase("model"); }, "no model"},
      {[](Json& j) { j["model"]["type"] = "WordPiece"; },
       "model type \"WordPiece\" is not supported"},
      {[](Json& j) { j["model"]["type"] = 3; }, "\"type\" must be a string"},
      {[](Json& j) { j["model"]["vocab"] = Json::array(); },
       "model.vocab must be an object"},
      {[](Json& j) { j["model"]["vocab"]["c"] = 9; }, "no token has id 5"},
      {[](Json& j) { j["model"]["vocab"]["c"] = 2; }, "id 2 is both"},
      {[](Json& j) { j["model"]["vocab"]["c"] = -1; }, "has id -1"},
      {[](Json& j) { j["model"]["vocab"]["c"] = 1 << 22; },
       "has id 4194304, limit 4194304"},
      {[](Json& j) { j["model"]["vocab"]["c"] = 1e10; },
       "\"c\" must be an integer"},
      {[](Json& j) { j["model"]["vocab"]["c"] = "5"; },
       "\"c\" must be an integer"},
      {[](Json& j) { j["added_tokens"][0]["id"] = 0; }, "id 0 is both"},
      {[](Json& j) { j["added_tokens"][0]["content"] = ""; }, "has no content"},
      {[](Json& j) { j["added_tokens"][0]["special"] = "yes"; },
       "\"special\" must be true or false"},
      {[](Json& j) {
         j["added_tokens"].push_back({{"id", 1}, {"content", "a"}});
       },
       "id 1 is both"},
      {[](Json& j) { j["model"]["merges"][0] = "a z"; },
       "merge part \"z\" is not in the vocabulary"},
      {[](Json& j) { j["model"]["merges"][0] = "b a"; },
       "merge result \"ba\" is not in the vocabulary"},
      {[](Json& j) { j["model"]["merges"][0] = "a b c"; }, "is not two"},
      {[](Json& j) {
         j["model"]["merges"][0] = {"", "a"};
       },
       "is not two"},
      {[](Json& j) { j["model"]["merges"].push_back("a b"); },
       "repeats an earlier one"},
      {[](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; },
       "end_of_word_suffix \"</w>\" is not supported"},
      {[](Json& j) { j["model"]["dropout"] = 0.1; }, "dropout 0.1"},
      {[](Json& j) {
         j["normalizer"] = {{"type", "Precompiled"}};
       },
       "normalizer {\"type\":\"Precompiled\"} is not supported"},
      {[](Json& j) {
         j["pre_tokenizer"] = {{"type", "Whitespace"}};
       },
       "pre_tokenizer {\"type\":\"Whitespace\"} is not supported"},
      {[](Json& j) {
         j["pre_tokenizer"] = {{"type", "Split"},
                               {"pattern", {{"Regex", "(a"}}},
                               {"behavior", "Isolated"}};
       },
       "regular expression \"(a\""},
      {[](Json& j) {
         j["pre_tokenizer"] = {{"type", "Split"},
                               {"pattern", {{"Regex", "a"}}},
                               {"behavior", "Sideways"}};
       },
       "split behavior"},
      {[](Json& j) {
         j["pre_tokenizer"] = {
             {"type", "Sequence"},
             {"pretokenizers",
              {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
       },
       "follows ByteLevel"},
      {[](Json& j) {
         j["pre_tokenizer"] = {{"type", "Sequence"}};
       },
       "Sequence without a list \"pretokenizers\""},
      {[](Json& j) {
         j["decoder"] = {{"type", "CTC"}};
       },
       "decoder"},
      {[](Json& j) {
         j["post_processor"] = {{"type", "BertProcessing"}};
       },
       "post_processor"},
      {[](Json& j) {
         j["post_processor"] = {
             {"type", "TemplateProcessing"},
             {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}},
             {"special_tokens", {{"<s>", {{"ids", {77}}}}}}};
       },
       "template token \"<s>\" has id 77"},
  };
  EXPECT_TRUE(MakeTokenizer(SpecOf(SmallJson())).ok());
  for (const auto& c : cases) {
    Json json = SmallJson();
    c.spoil(json);
    ExpectRefused(SpecOf(json), c.error);
  }
}

TEST(TokenizerFactoryTest, RefusesTextThatIsNoJson) {
  TokenizerSpec spec = SpecOf(SmallJson());
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("{\"a\":\"\xFF\"}"),
        std::string("nul"), std::string(1, '\0')}) {
    spec.tokenizer_json = text;
    ExpectRefused(spec, "tokenizer.json is not valid JSON");
  }
  spec.tokenizer_json = std::string(100000, '[');
  ExpectRefused(spec, "tokenizer.json is nested deeper than 64");
}

TEST(TokenizerFactoryTest, ReadsUnigramVocabulary) {
  Json json = Json::parse(R"({
    "decoder": {"type": "Metaspace"},
    "model": {"type": "Unigram", "unk_id": 0,
              "vocab": [["<unk>", 0], ["a", -1], ["b", -2], ["ab", -2.5]]}})");
  const std::unique_ptr<Tokenizer> tokenizer = MakeGoodTokenizer(SpecOf(json));
  EXPECT_EQ(tokenizer->Encode("abba??", {})->ids, Ids({3, 2, 1, 0}));

  json["model"]["unk_id"] = 4;
  ExpectRefused(SpecOf(json), "unk_id 4 is outside [0, 4)");
  json["model"].erase("unk_id");
  const std::unique_ptr<Tokenizer> without = MakeGoodTokenizer(SpecOf(json));
  const Encoding encoding = *without->Encode("ab??", {});
  EXPECT_EQ(encoding.ids, Ids({3}));
  EXPECT_EQ(encoding.unencodable_bytes, 2u);
  json["model"]["vocab"][1] = {"a"};
  ExpectRefused(SpecOf(json), "is not [token, score]");
}

TEST(TokenizerFactoryTest, DropsBytesThatNoTokenCovers) {
  const std::unique_ptr<Tokenizer> bpe = MakeGoodTokenizer(SmallBpe());
  const Encoding encoding = *bpe->Encode("axbé", {});
  EXPECT_EQ(encoding.ids, Ids({4}));  // what is left becomes neighbours
  EXPECT_EQ(encoding.unencodable_bytes, 3u);
  // One byte token exists, so bytes are the fallback and <unk> is none.
  const std::unique_ptr<Tokenizer> spm = MakeGoodTokenizer(SmallSpm());
  const Encoding spm_encoding = *spm->Encode("aaAé", {});
  EXPECT_EQ(spm_encoding.ids, Ids({3, 1}));
  EXPECT_EQ(spm_encoding.unencodable_bytes, 2u);
}

TEST(TokenizerFactoryTest, MergesAcrossWordsWhereATokenDoes) {
  const std::unique_ptr<Tokenizer> tokenizer =
      MakeGoodTokenizer(SpecOf(Json::parse(R"({
    "normalizer": {"type": "Replace", "pattern": {"String": " "},
                   "content": "▁"},
    "decoder": {"type": "Metaspace", "prepend_scheme": "never"},
    "model": {"type": "BPE",
              "vocab": {"a": 0, "b": 1, "▁": 2, "a▁": 3, "a▁b": 4},
              "merges": [["a", "▁"], ["a▁", "b"]]}})")));
  EXPECT_EQ(tokenizer->Encode("a b a", {})->ids, Ids({4, 2, 0}));
}

TEST(TokenizerFactoryTest, LoadsTheTinyModelsFolder) {
  TokenizerSpec spec = JsonSpec("tiny.json");
  spec.tokenizer_config_json = ReadGolden("tokenizers/tiny_config.json");
  spec.generation_config_json = R"({"eos_token_id": [1, 2, 1]})";
  const std::unique_ptr<Tokenizer> tokenizer = MakeGoodTokenizer(spec);
  EXPECT_EQ(tokenizer->bos_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->eos_ids(), Ids({1, 2}));
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  const std::string text = "<|user|>Hello, world! é漢\n";
  const Encoding encoding =
      *tokenizer->Encode(text, {.add_special = true, .parse_special = true});
  EXPECT_EQ(encoding.ids.front(), 2);
  std::string bytes;
  for (int32_t id : encoding.ids) {
    absl::StrAppend(&bytes, tokenizer->TokenBytes(id));
  }
  EXPECT_EQ(bytes, text);

  spec.generation_config_json = R"({"eos_token_id": "x"})";
  ExpectRefused(spec, "\"eos_token_id\" must be an integer");
  spec.generation_config_json = R"({"eos_token_id": 512})";
  ExpectRefused(spec, "eos id 512 is outside");
  spec.generation_config_json = "";
  spec.tokenizer_config_json = R"({"eos_token": "<nosuch>"})";
  ExpectRefused(spec, "eos_token \"<nosuch>\" is not in the vocabulary");
}

TEST(TokenizerFactoryTest, ConfigAddsBosOnlyWhereNoTemplateDoes) {
  TokenizerSpec spec = SpecOf(SmallJson());
  spec.tokenizer_config_json =
      R"({"bos_token": {"content": "<s>"}, "add_bos_token": true})";
  const EncodeOptions add = {.add_special = true};
  EXPECT_EQ(MakeGoodTokenizer(spec)->Encode("ab", add)->ids, Ids({4, 2}));
  Json json = SmallJson();
  json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
      "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>"}}],
      "special_tokens": {"<s>": {"ids": [4]}}})");
  spec.tokenizer_json = json.dump();
  EXPECT_EQ(MakeGoodTokenizer(spec)->Encode("ab", add)->ids, Ids({2, 4}));
}

TEST(TokenizerConfigTest, ReadsChatTemplates) {
  EXPECT_EQ(ParseTokenizerConfig("")->chat_template, "");
  EXPECT_EQ(ParseTokenizerConfig(R"({"chat_template":"x"})")->chat_template,
            "x");
  EXPECT_EQ(ParseTokenizerConfig(
                R"({"chat_template":[{"name":"rag","template":"r"},
                    {"name":"default","template":"d"}]})")
                ->chat_template,
            "d");
  for (const char* json :
       {"[]", "{", R"({"chat_template":1})", R"({"add_bos_token":"yes"})"}) {
    EXPECT_EQ(ParseTokenizerConfig(json).status().code(),
              absl::StatusCode::kInvalidArgument)
        << json;
  }
}

TEST(TokenizerSpecTest, DigestCoversEveryField) {
  const std::vector<std::function<void(TokenizerSpec&)>> changes = {
      [](auto& s) { s.kind = TokenizerKind::kSpm; },
      [](auto& s) { s.tokens[1] += "x"; },
      [](auto& s) { std::swap(s.tokens[1], s.tokens[2]); },
      [](auto& s) { s.tokens[1] += s.tokens[2], s.tokens[2].clear(); },
      [](auto& s) { s.scores = {1}; },
      [](auto& s) { s.types[1] = 4; },
      [](auto& s) { s.merges.pop_back(); },
      [](auto& s) { s.pre = "smollm"; },
      [](auto& s) { s.add_bos = true; },
      [](auto& s) { s.add_eos = true; },
      [](auto& s) { s.add_space_prefix = true; },
      [](auto& s) { s.bos_id = 1; },
      [](auto& s) { s.eos_id = 1; },
      [](auto& s) { s.unk_id = 1; },
      [](auto& s) { s.pad_id = 1; },
      [](auto& s) { s.eos_ids = {1}; },
      [](auto& s) { s.tokenizer_json = "x"; },
      [](auto& s) { s.tokenizer_config_json = "x"; },
      [](auto& s) { s.generation_config_json = "x"; },
  };
  std::vector<Sha256Digest> digests = {DigestOf(SmallBpe())};
  EXPECT_EQ(DigestOf(SmallBpe()), digests[0]);
  for (const auto& change : changes) {
    TokenizerSpec spec = SmallBpe();
    change(spec);
    const Sha256Digest digest = DigestOf(spec);
    for (const Sha256Digest& other : digests) EXPECT_NE(digest, other);
    digests.push_back(digest);
  }
}

}  // namespace
}  // namespace sluice::router
