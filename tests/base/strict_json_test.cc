#include "base/strict_json.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

std::string Repeat(const std::string& s, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

TEST(StrictJsonTest, AcceptsRfc8259) {
  const std::string texts[] = {
      R"({"a":1,"b":[true,false,null,-1.5e3,"x\u00e9\ud83d\ude00"]})",
      "0",
      " \t\r\n\"\xF0\x9F\x98\x80\" ",
      "18446744073709551615",
      "-9223372036854775808",
      "{\"a\":{\"a\":1},\"b\":{\"a\":2}}",
      "{\"\":1}",
      "123456789012345678901234567890",
      Repeat("[", 64) + Repeat("]", 64),
  };
  for (const std::string& text : texts) {
    const auto got = ParseStrictJson(text);
    ASSERT_TRUE(got.ok()) << text << ": " << got.status();
    EXPECT_EQ(*got, nlohmann::json::parse(text)) << text;
    const auto ordered = ParseStrictOrderedJson(text);
    ASSERT_TRUE(ordered.ok()) << text;
    EXPECT_EQ(*ordered, nlohmann::ordered_json::parse(text)) << text;
  }
}

TEST(StrictJsonTest, RefusesTheRestWithPosition) {
  struct Case {
    std::string text;
    std::string want;
  };
  const Case cases[] = {
      {"", "byte 0"},
      {"   ", "byte 3"},
      {R"({"a":1,"b":2,"a":3})", "byte 15: duplicate key \"a\""},
      {R"([{"x":{"k":1,"k":2}}])", "duplicate key \"k\""},
      {R"({"a":1,"\u0061":3})", "duplicate key \"a\""},
      {"{} x", "byte 3"},
      {"1 2", "byte 2"},
      {"[1,]", "byte 3"},
      {"{\"a\":1,}", "byte 7"},
      {"NaN", "byte 0"},
      {"[Infinity]", "byte 1"},
      {"[-Infinity]", "byte 2"},
      {"[1e999]", "byte 5: number overflow"},
      {"[01]", "byte 2"},
      {"[+1]", "byte 1"},
      {"[.5]", "byte 1"},
      {"[0x1]", "byte 2"},
      {"'a'", "byte 0"},
      {"// c\n1", "byte 0"},
      {"\xEF\xBB\xBF{}", "byte 0: byte-order mark"},
      {std::string("{}\0", 3), "byte 2: NUL byte"},
      {std::string("\"a\0b\"", 5), "byte 2: NUL byte"},
      {"\"a\nb\"", "byte 2"},
      {R"("\ud83d")", "surrogate"},
      {R"("\ude00")", "surrogate"},
      {R"("\ud83dx")", "surrogate"},
      {"\"\xff\"", "UTF-8"},
      {"\"\xc0\xaf\"", "UTF-8"},
      {"\"\xed\xa0\x80\"", "UTF-8"},
      {"\"\xf4\x90\x80\x80\"", "UTF-8"},
      {"\"\xe2\x82\"", "UTF-8"},
      {"{\"a\"", "byte 4"},
      {"\"abc", "byte 4"},
      {Repeat("[", 65) + Repeat("]", 65), "byte 64: nested deeper than 64"},
      {Repeat("{\"a\":", 65), "nested deeper than 64"},
      {Repeat("[", 1000000), "nested deeper than 64"},
  };
  for (const Case& c : cases) {
    const auto got = ParseStrictJson(c.text);
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument)
        << c.text.substr(0, 80);
    EXPECT_THAT(std::string(got.status().message()), HasSubstr(c.want))
        << c.text.substr(0, 80);
    EXPECT_THAT(std::string(got.status().message()), HasSubstr("JSON at byte"))
        << c.text.substr(0, 80);
    EXPECT_EQ(ParseStrictOrderedJson(c.text).status(), got.status());
  }
}

TEST(StrictJsonTest, ErrorsDoNotQuoteStrings) {
  for (const std::string text : {"[\"private\xff\"]", "\"private", "[private]",
                                 "{\"a\":\"private\nx\"}"}) {
    const auto got = ParseStrictJson(text);
    ASSERT_FALSE(got.ok());
    EXPECT_EQ(got.status().message().find("private"), std::string::npos)
        << got.status();
  }
}

TEST(StrictJsonTest, OrderedKeepsMemberOrder) {
  const auto got = ParseStrictOrderedJson(R"({"z":1,"a":{"y":2,"b":3}})");
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->dump(), R"({"z":1,"a":{"y":2,"b":3}})");
  EXPECT_EQ((*got)["a"]["b"], 3);
}

TEST(StrictJsonTest, LimitsNumberOfValues) {
  EXPECT_TRUE(ParseStrictJson("[1,2,3]", {.max_values = 4}).ok());
  EXPECT_THAT(
      std::string(
          ParseStrictJson("[1,2,3]", {.max_values = 3}).status().message()),
      HasSubstr("more than 3 values"));
}

// 200 000 members: a quadratic insertion would take minutes.
TEST(StrictJsonTest, ManyMembersTakeLinearTime) {
  std::string text = "{\"k\":0";
  for (int i = 0; i < 200000; ++i) absl::StrAppend(&text, ",\"", i, "\":1");
  text += "}";
  const auto got = ParseStrictOrderedJson(text);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->size(), 200001u);
}

}  // namespace
}  // namespace sluice
