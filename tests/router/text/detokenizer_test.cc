#include "router/text/detokenizer.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::router {
namespace {

using Texts = std::vector<std::string>;

// Tokens of raw bytes: id 0 is special, id 1 begins with a space, then bytes.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    Vocabulary::Options options;
    options.token_bytes = {"<s>", " Hi"};
    for (int byte = 0; byte < 256; ++byte) {
      options.token_bytes.emplace_back(1, static_cast<char>(byte));
    }
    options.is_special.assign(options.token_bytes.size(), false);
    options.is_special[0] = true;
    options.strips_leading_space = true;
    vocabulary_ = Vocabulary(std::move(options));
  }
  absl::StatusOr<Encoding> Encode(absl::string_view text,
                                  EncodeOptions) const override {
    Encoding out;
    for (char c : text) out.ids.push_back(2 + static_cast<uint8_t>(c));
    return out;
  }
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
};

TEST(DetokenizerTest, GivesWholeCodePointsAndMaximalInvalidParts) {
  const ByteTokenizer tokenizer;
  const std::string bad = "\xEF\xBF\xBD";
  const struct {
    std::string bytes;
    Texts deltas;  // one for each byte, then the rest
  } cases[] = {
      {"a\xC3\xA9", {"a", "", "é", ""}},
      {"\xF0\x9F\x91\xA8", {"", "", "", "👨", ""}},
      {"\xF0\x9F\x91", {"", "", "", bad}},  // one cut part
      {"\xF0\x9F\x91"
       "a",
       {"", "", "", bad + "a", ""}},
      {"\x80\x80", {bad, bad, ""}},                // two parts
      {"\xC0\x80", {bad, bad, ""}},                // never a lead byte
      {"\xE0\x80", {"", bad + bad, ""}},           // bad second byte
      {"\xED\xA0\x80", {"", bad + bad, bad, ""}},  // a surrogate
      {"\xF4\x90", {"", bad + bad, ""}},           // beyond U+10FFFF
      {"\xE6\xBC\xC3\xA9", {"", "", bad, "é", ""}},
  };
  for (const auto& c : cases) {
    Detokenizer detokenizer(&tokenizer, {});
    Texts deltas;
    for (char byte : c.bytes) {
      deltas.push_back(detokenizer.Feed(2 + static_cast<uint8_t>(byte)));
    }
    deltas.push_back(detokenizer.Finish());
    EXPECT_EQ(deltas, c.deltas) << testing::PrintToString(c.bytes);
  }
}

TEST(DetokenizerTest, LeadingSpaceAndSpecialTokens) {
  const ByteTokenizer tokenizer;
  const struct {
    DetokenizerOptions options;
    std::vector<int32_t> ids;
    const char* text;
  } cases[] = {
      {{.at_text_start = true}, {1, 1}, "Hi Hi"},
      {{.at_text_start = false}, {1, 1}, " Hi Hi"},
      {{.at_text_start = true}, {0, 1}, "Hi"},
      {{.skip_special_tokens = false, .at_text_start = true}, {0, 1}, "<s> Hi"},
      {{.skip_special_tokens = true}, {2 + 0xC3, 0, 2 + 0xA9}, "é"},
      {{}, {-1, 258, 1 << 30, 1}, " Hi"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Detokenize(tokenizer, c.ids, c.options), c.text);
  }
}

}  // namespace
}  // namespace sluice::router
