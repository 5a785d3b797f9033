#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log_fold.h"
#include "base/log_line.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sluice {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// Points the process's log at a file and reads back what was written.
class LogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fd_ = open(::testing::TempDir().c_str(), O_TMPFILE | O_RDWR, 0600);
    ASSERT_GE(fd_, 0);
    Configure({});
  }
  void TearDown() override {
    ConfigureLog({});
    EXPECT_TRUE(FlushLog(5000));
    close(fd_);
  }
  void Configure(LogOptions options) {
    options.fd = fd_;
    ConfigureLog(options);
  }
  std::vector<std::string> Lines() {
    EXPECT_TRUE(FlushLog(5000));
    std::string text(1 << 20, '\0');
    const ssize_t n = pread(fd_, text.data(), text.size(), 0);
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    std::vector<std::string> lines = absl::StrSplit(text, '\n');
    EXPECT_EQ(lines.back(), "");
    lines.pop_back();
    return lines;
  }

  int fd_ = -1;
};

TEST_F(LogTest, KeysAndTypes) {
  Configure({.role = "router", .instance = "r-0"});
  StartThread("teller", [] {
    const std::string s = "va\"l\n\xff";
    Log(kWarn, "state",
        {{"before", "starting"},
         {"s", s},
         {"ms", 12},
         {"neg", int64_t{-5}},
         {"big", UINT64_MAX},
         {"ratio", 0.25},
         {"ok", true},
         {"nan", 0.0 / 0.0}});
  }).join();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  const json line = json::parse(lines[0]);
  EXPECT_THAT(line["ts"].get<std::string>(),
              MatchesRegex("20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:"
                           "[0-9][0-9]:[0-9][0-9][.][0-9]{6}Z"));
  json rest = line;
  rest.erase("ts");
  EXPECT_EQ(rest, json({{"level", "warn"},
                        {"msg", "state"},
                        {"role", "router"},
                        {"instance", "r-0"},
                        {"thread", "teller"},
                        {"before", "starting"},
                        {"s", "va\"l\n\xEF\xBF\xBD"},
                        {"ms", 12},
                        {"neg", -5},
                        {"big", UINT64_MAX},
                        {"ratio", 0.25},
                        {"ok", true},
                        {"nan", "nan"}}));
}

TEST_F(LogTest, TextFormat) {
  Configure({.format = LogFormat::kText});
  Log(kError, "no luck", {{"path", "/a b"}, {"n", 3}, {"plain", "x-1"}});
  EXPECT_THAT(
      Lines(),
      ElementsAre(HasSubstr("Z error no luck path=\"/a b\" n=3 plain=x-1")));
}

TEST_F(LogTest, LevelsAndDebugForAWhile) {
  const uint64_t debug_before = GetLogCounts().lines[0];
  Log(kDebug, "one");
  Configure({.level = LogLevel::kWarn});
  Log(kInfo, "two");
  Log(kWarn, "three");
  LogDebugFor(60'000);
  Log(kDebug, "four");
  LogDebugFor(0);
  Log(kDebug, "five");
  EXPECT_THAT(Lines(), ElementsAre(HasSubstr("three"), HasSubstr("four")));
  EXPECT_EQ(GetLogCounts().lines[0], debug_before + 1);
}

TEST_F(LogTest, LongLinesAreCut) {
  Configure({.role = "worker", .instance = "w"});
  const std::string quotes(5000, '"');  // doubles when escaped
  std::string wide;
  for (int i = 0; i < 4000; ++i) wide += "\xE2\x82\xAC";
  Log(kInfo, "a", {{"x", quotes}, {"after", 1}});
  Log(kInfo, "b", {{"x", wide}});
  Log(kInfo, "c", {{"x", std::string(7000, 'x')}, {"after", 1}});
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 3u);
  for (const auto& line : lines) {
    EXPECT_LE(line.size() + 1, kMaxLogLineBytes);
    EXPECT_TRUE(json::accept(line)) << line;
  }
  for (int i : {0, 1}) {
    EXPECT_GT(lines[i].size(), 7000u);
    EXPECT_EQ(json::parse(lines[i])["cut"], true);
  }
  EXPECT_EQ(json::parse(lines[0]).contains("after"), false);
  EXPECT_EQ(json::parse(lines[2]).contains("cut"), false);
  EXPECT_EQ(json::parse(lines[2])["after"], 1);
}

TEST_F(LogTest, EqualLinesAreFolded) {
  for (int i = 0; i < 100; ++i) Log(kInfo, "again", {{"k", 1}});
  Log(kInfo, "again", {{"k", 2}});
  // A second may end on the way, hence a sum.
  uint64_t total = 0, repeats = 0;
  for (const auto& line : Lines()) {
    const json parsed = json::parse(line);
    if (parsed["k"] != 1) continue;
    const uint64_t repeat = parsed.value("repeat", uint64_t{0});
    total += repeat == 0 ? 1 : repeat;
    repeats += repeat > 0;
  }
  EXPECT_EQ(total, 100u);
  EXPECT_GE(repeats, 1u);
}

// A reader that does not read costs lines, never time.
TEST_F(LogTest, BlockedPipeDropsAndCounts) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  ConfigureLog({.fd = pipe_fds[1]});
  const uint64_t dropped_before = GetLogCounts().dropped;
  const std::string kilobytes(4000, 'x');
  for (int i = 0; i < 3000; ++i)
    Log(kInfo, "flood", {{"i", i}, {"x", kilobytes}});
  EXPECT_GT(GetLogCounts().dropped, dropped_before + 1000);
  EXPECT_FALSE(FlushLog(10));
  // The reader comes back: the rest arrives whole.
  std::string got;
  std::jthread reader([&] {
    char buffer[65536];
    for (ssize_t n; (n = read(pipe_fds[0], buffer, sizeof(buffer))) > 0;) {
      got.append(buffer, static_cast<size_t>(n));
    }
  });
  EXPECT_TRUE(FlushLog(10'000));
  ConfigureLog({.fd = fd_});
  EXPECT_TRUE(FlushLog(10'000));
  close(pipe_fds[1]);
  reader.join();
  close(pipe_fds[0]);
  int num_lines = 0;
  for (absl::string_view line : absl::StrSplit(got, '\n')) {
    if (line.empty()) continue;
    ++num_lines;
    EXPECT_TRUE(json::accept(line.begin(), line.end()));
  }
  EXPECT_EQ(num_lines + GetLogCounts().dropped - dropped_before, 3000u);
}

TEST(LogFoldTest, TenASecondPass) {
  LogFold fold;
  int passed = 0;
  for (int i = 0; i < 25; ++i) passed += fold.Passes("x", 1000 + i);
  EXPECT_EQ(passed, 10);
  EXPECT_TRUE(fold.Passes("y", 1000));
  EXPECT_TRUE(fold.TakeEnded(1'000'999, false).empty());
  const auto folded = fold.TakeEnded(1'001'000, false);
  ASSERT_EQ(folded.size(), 1u);
  EXPECT_EQ(folded[0].body, "x");
  EXPECT_EQ(folded[0].repeat, 15u);
  EXPECT_TRUE(fold.empty());
  EXPECT_TRUE(fold.Passes("x", 1'001'001));
}

TEST(LogFoldTest, MemoryIsBounded) {
  LogFold fold;
  for (int i = 0; i < 5000; ++i) EXPECT_TRUE(fold.Passes(absl::StrCat(i), 0));
  int passed = 0;
  for (int i = 0; i < 20; ++i) passed += fold.Passes("4999", 1);
  EXPECT_EQ(passed, 20);  // beyond the bound nothing is held back
}

TEST(LogNamesTest, Parse) {
  EXPECT_EQ(*ParseLogLevel(""), LogLevel::kInfo);
  EXPECT_EQ(*ParseLogLevel("error"), LogLevel::kError);
  EXPECT_THAT(std::string(ParseLogLevel("loud").status().message()),
              HasSubstr("\"loud\""));
  EXPECT_EQ(*ParseLogFormat("text"), LogFormat::kText);
  EXPECT_FALSE(ParseLogFormat("xml").ok());
}

}  // namespace
}  // namespace sluice
