#include "router/server/json_text.h"

#include <limits>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sluice::router {
namespace {

using nlohmann::json;

std::string Quoted(const std::string& text) {
  std::string out;
  AppendJsonString(text, out);
  return out;
}

TEST(JsonTextTest, StringsAreThoseOfTheLibrary) {
  for (int c = 0; c < 0x80; ++c) {
    const std::string text = {'a', static_cast<char>(c), 'b'};
    EXPECT_EQ(Quoted(text), json(text).dump()) << c;
  }
  for (const char* text :
       {"", "\xC3\xA9", "\xE2\x82\xAC \"q\"", "\xF0\x9F\x98\x80\n\\"}) {
    EXPECT_EQ(Quoted(text), json(text).dump());
  }
}

TEST(JsonTextTest, AnyBytesGiveValidJson) {
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes;
    const size_t size = random() % 12;
    for (size_t j = 0; j < size; ++j) bytes += static_cast<char>(random());
    const json parsed = json::parse(Quoted(bytes), nullptr, false);
    ASSERT_TRUE(parsed.is_string()) << Quoted(bytes);
    EXPECT_EQ(parsed.get<std::string>(), ToValidUtf8(bytes));
  }
  EXPECT_EQ(Quoted("a\xFFz"), "\"a\xEF\xBF\xBDz\"");
}

TEST(JsonTextTest, NumbersAndCommas) {
  std::string out;
  AppendJsonNumber(-0.5, out);
  AppendComma(out);
  AppendJsonNumber(-std::numeric_limits<double>::infinity(), out);
  EXPECT_EQ(out, "-0.5,null");
  std::string empty;
  AppendComma(empty);
  EXPECT_EQ(empty, "");
}

}  // namespace
}  // namespace sluice::router
