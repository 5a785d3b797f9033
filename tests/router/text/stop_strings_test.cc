#include "router/text/stop_strings.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::router {
namespace {

struct Result {
  std::string text;  // all that was sent
  int stop = -1;
  bool operator==(const Result& other) const {
    return text == other.text && stop == other.stop;
  }
};

std::ostream& operator<<(std::ostream& out, const Result& result) {
  return out << '"' << result.text << "\" stop " << result.stop;
}

// One chunk is one generated token.
Result Match(StopOptions options, const std::vector<std::string>& chunks) {
  absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(std::move(options));
  EXPECT_TRUE(matcher.ok()) << matcher.status();
  Result result;
  int64_t tokens = 0;
  for (const std::string& chunk : chunks) {
    const StopMatcher::Output output = matcher->Push(chunk, ++tokens);
    result.text += output.text;
    if (output.stop_index.has_value()) result.stop = *output.stop_index;
  }
  result.text += matcher->Finish();
  return result;
}

TEST(StopStringsTest, FindsTheEarliestMatch) {
  const struct {
    const char* name;
    StopOptions options;
    std::vector<std::string> chunks;
    Result expected;
  } cases[] = {
      {"no stops", {}, {"ab", "c"}, {"abc", -1}},
      {"none found", {.stops = {"x"}}, {"ab", "c"}, {"abc", -1}},
      {"in one chunk", {.stops = {"b"}}, {"abc"}, {"a", 0}},
      {"across chunks", {.stops = {"bcd"}}, {"ab", "c", "de"}, {"a", 0}},
      {"nothing after", {.stops = {"b"}}, {"ab", "x", "y"}, {"a", 0}},
      {"partial is given back",
       {.stops = {"bcd"}},
       {"ab", "c", "x"},
       {"abcx", -1}},
      {"partial at the end", {.stops = {"bcd"}}, {"abc"}, {"abc", -1}},
      {"overlapping beginning",
       {.stops = {"aab"}},
       {"a", "a", "a", "b"},
       {"a", 0}},
      {"included",
       {.stops = {"bc"}, .include_stop = true},
       {"ab", "cd"},
       {"abc", 0}},
      {"first to complete", {.stops = {"bcde", "cd"}}, {"abcdef"}, {"ab", 1}},
      {"same end, longest", {.stops = {"d", "bcd", "cd"}}, {"abcd"}, {"a", 1}},
      {"same string, first", {.stops = {"b", "b"}}, {"ab"}, {"a", 0}},
      {"two in one chunk", {.stops = {"y", "x"}}, {"axby"}, {"a", 1}},
      {"whole characters", {.stops = {"é漢"}}, {"a", "é", "漢", "b"}, {"a", 0}},
      {"min_tokens ignores",
       {.stops = {"b"}, .min_tokens = 2},
       {"ab", "b", "ab"},
       {"abba", 0}},
      {"min_tokens: ends later",
       {.stops = {"bcd"}, .min_tokens = 2},
       {"ab", "c", "d"},
       {"a", 0}},
      {"min_tokens: begins another",
       {.stops = {"ab", "abc"}, .min_tokens = 1},
       {"ab", "c"},
       {"", 1}},
      {"min_tokens: ignored for good",
       {.stops = {"ab"}, .min_tokens = 1},
       {"ab", "x"},
       {"abx", -1}},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Match(c.options, c.chunks), c.expected) << c.name;
  }
}

TEST(StopStringsTest, HoldsBackOnlyWhatMayMatch) {
  StopMatcher matcher = *StopMatcher::Create({.stops = {"END", "NDX"}});
  EXPECT_EQ(matcher.Push("the E", 1).text, "the ");
  EXPECT_EQ(matcher.Push("N", 2).text, "");
  EXPECT_EQ(matcher.Push("A", 3).text, "ENA");
  EXPECT_EQ(matcher.Push("xEN", 4).text, "x");
  EXPECT_EQ(matcher.Finish(), "EN");

  // A match that is ignored is decided: no longer held.
  matcher = *StopMatcher::Create({.stops = {"ab"}, .min_tokens = 1});
  EXPECT_EQ(matcher.Push("xab", 1).text, "xab");
}

TEST(StopStringsTest, RefusesBadStops) {
  const std::vector<std::vector<std::string>> cases = {
      {""},
      {"a", ""},
      {std::string(257, 'x')},
      std::vector<std::string>(17, "a"),
      {"\xC3"}};
  for (const std::vector<std::string>& stops : cases) {
    EXPECT_EQ(
        StopMatcher::Create({.stops = stops}).status(),
        absl::InvalidArgumentError(
            "stop must be at most 16 non-empty strings of at most 256 bytes"));
  }
  EXPECT_TRUE(StopMatcher::Create({.stops = std::vector<std::string>(
                                       16, std::string(256, 'x'))})
                  .ok());
}

// The rule itself on the whole text, without chunks.
Result BruteForce(const StopOptions& options,
                  const std::vector<std::string>& chunks) {
  std::string text;
  std::vector<int64_t> token_of;  // of each byte
  for (size_t i = 0; i < chunks.size(); ++i) {
    text += chunks[i];
    token_of.resize(text.size(), static_cast<int64_t>(i) + 1);
  }
  for (size_t end = 1; end <= text.size(); ++end) {
    if (token_of[end - 1] <= options.min_tokens) continue;
    int best = -1;
    for (size_t s = 0; s < options.stops.size(); ++s) {
      const std::string& stop = options.stops[s];
      if (stop.size() > end ||
          text.compare(end - stop.size(), stop.size(), stop) != 0) {
        continue;
      }
      if (best < 0 || stop.size() > options.stops[best].size()) {
        best = static_cast<int>(s);
      }
    }
    if (best < 0) continue;
    const size_t cut =
        options.include_stop ? end : end - options.stops[best].size();
    return {text.substr(0, cut), best};
  }
  return {text, -1};
}

TEST(StopStringsTest, AgreesWithTheRuleOnRandomTexts) {
  std::mt19937 random(7);
  const auto word = [&](size_t max) {
    std::string out(1 + random() % max, 'a');
    for (char& c : out) c = static_cast<char>('a' + random() % 2);
    return out;
  };
  int num_stopped = 0;
  for (int round = 0; round < 5000; ++round) {
    StopOptions options;
    for (size_t i = random() % 4; i > 0; --i) {
      options.stops.push_back(word(6));
    }
    options.include_stop = random() % 2 == 0;
    options.min_tokens = random() % 4;
    std::vector<std::string> chunks;
    for (size_t i = random() % 8; i > 0; --i) chunks.push_back(word(3));
    const Result expected = BruteForce(options, chunks);
    ASSERT_EQ(Match(options, chunks), expected) << "round " << round;
    num_stopped += expected.stop >= 0;
  }
  EXPECT_GT(num_stopped, 1000);
}

}  // namespace
}  // namespace sluice::router
