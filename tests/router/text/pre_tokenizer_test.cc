#include "router/text/pre_tokenizer.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace sluice::router {
namespace {

using Texts = std::vector<std::string>;
using Behavior = PreTokenizer::Behavior;

Texts PiecesOf(const PreTokenizer& pre_tokenizer, const std::string& text,
               bool at_start = true) {
  PieceList list;
  list.Reset(text, at_start);
  const absl::Status status = pre_tokenizer.Run(list);
  EXPECT_TRUE(status.ok()) << status;
  Texts pieces;
  for (const PieceList::Piece piece : list.pieces()) {
    pieces.emplace_back(list.Text(piece));
  }
  return pieces;
}

PreTokenizer Splitting(absl::string_view pattern, Behavior behavior,
                       bool invert = false) {
  PreTokenizer out;
  out.Add(PreTokenizer::Split{*Pattern::Compile(pattern), behavior, invert});
  return out;
}

TEST(PreTokenizerTest, SplitBehaviors) {
  const struct {
    Behavior behavior;
    bool invert;
    Texts expected;
  } cases[] = {
      // the examples of Hugging Face's documentation
      {Behavior::kRemoved, false, {"the", "final", "countdown"}},
      {Behavior::kIsolated,
       false,
       {"the", "-", "final", "-", "-", "countdown"}},
      {Behavior::kMergedWithPrevious,
       false,
       {"the-", "final-", "-", "countdown"}},
      {Behavior::kMergedWithNext, false, {"the", "-final", "-", "-countdown"}},
      {Behavior::kContiguous, false, {"the", "-", "final", "--", "countdown"}},
      {Behavior::kRemoved, true, {"-", "-", "-"}},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(
        PiecesOf(Splitting("-", c.behavior, c.invert), "the-final--countdown"),
        c.expected);
  }
}

TEST(PreTokenizerTest, NamedPatterns) {
  const struct {
    const char* name;
    const char* text;
    Texts expected;
  } cases[] = {
      {"gpt-2",
       "it's  12 days\n\n x",
       {"it", "'s", " ", " 12", " days", "\n\n", " x"}},
      {"smollm", "a  12", {"a", "  ", "1", "2"}},
      {"llama-bpe",
       "I'LL 12345!!\n\n\tx",
       {"I", "'LL", " ", "123", "45", "!!\n\n", "\tx"}},
      {"qwen2", "x1234", {"x", "1", "2", "3", "4"}},
      {"default", "ab, 1234", {"ab", ",", " ", "123", "4"}},
  };
  for (const auto& c : cases) {
    PreTokenizer pre_tokenizer;
    ASSERT_TRUE(pre_tokenizer.AddNamed(c.name).ok());
    EXPECT_EQ(PiecesOf(pre_tokenizer, c.text), c.expected) << c.name;
  }
  PreTokenizer pre_tokenizer;
  for (const char* name : {"", "nosuch", "llama", "gpt-2 smollm"}) {
    EXPECT_EQ(pre_tokenizer.AddNamed(name).code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST(PreTokenizerTest, MetaspacePrependsByScheme) {
  const struct {
    PreTokenizer::PrependScheme scheme;
    bool at_start;
    const char* text;
    Texts expected;
  } cases[] = {
      {PreTokenizer::PrependScheme::kAlways,
       false,
       "a  b ",
       {"▁a", "▁", "▁b", "▁"}},
      {PreTokenizer::PrependScheme::kAlways, true, " a", {"▁a"}},
      {PreTokenizer::PrependScheme::kFirst, true, "a", {"▁a"}},
      {PreTokenizer::PrependScheme::kFirst, false, "a", {"a"}},
      {PreTokenizer::PrependScheme::kNever, true, "a b", {"a", "▁b"}},
  };
  for (const auto& c : cases) {
    PreTokenizer pre_tokenizer;
    pre_tokenizer.Add(PreTokenizer::Metaspace{"▁", c.scheme, true});
    EXPECT_EQ(PiecesOf(pre_tokenizer, c.text, c.at_start), c.expected)
        << c.text;
  }
}

TEST(PatternTest, WhiteSpaceIsUnicodes) {
  // U+180E has not been white space since Unicode 6.3; U+0085 is.
  const std::string text = "\xE1\xA0\x8E\xC2\x85\xE3\x80\x80 \t\v";
  const Pattern space = *Pattern::Compile("\\s+");
  EXPECT_EQ(space.Find(text, 0)->begin, 3u);
  EXPECT_EQ(space.Find(text, 0)->end, text.size());
  EXPECT_EQ(Pattern::Compile("[^\\s]+")->Find(text, 0)->end, 3u);
  EXPECT_EQ(Pattern::Compile("\\S+")->Find(text, 0)->end, 3u);
}

TEST(PatternTest, RefusesBadExpressions) {
  const std::string deep = std::string(300, '(') + std::string(300, ')');
  for (const std::string& expression :
       {std::string("a("), std::string("[a"), std::string("[a&&[b]]"),
        std::string("[a[b]]"), std::string("\\p{Nosuch}"), std::string("a**+?"),
        std::string("\xFF"), std::string(70000, 'a'), deep,
        std::string("(a{60000}){60000}")}) {
    EXPECT_EQ(Pattern::Compile(expression).status().code(),
              absl::StatusCode::kInvalidArgument)
        << expression.substr(0, 40);
  }
}

TEST(PatternTest, CatastrophicPatternEnds) {
  const Pattern pattern = *Pattern::Compile("(?:a+)+(?:a+)+(?:a+)+[bc]");
  const absl::Status status = pattern.Find(std::string(4000, 'a'), 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "step limit exceeded"));
}

TEST(PatternTest, QuotedTextMatchesItself) {
  const std::string text = R"(a.b*c\d[e]^$|(f)?+{1})";
  const Pattern pattern = *Pattern::Compile(QuotePattern(text));
  EXPECT_EQ(pattern.Find("xx" + text, 0)->begin, 2u);
  EXPECT_EQ(pattern.Find("xx" + text, 0)->end, 2 + text.size());
}

}  // namespace
}  // namespace sluice::router
