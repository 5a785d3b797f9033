#include "tools/load_report.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;

const LoadExchange::Time kBegin{milliseconds(1'000'000)};

std::string Piece(const std::string& text) {
  return absl::StrCat("data: {\"choices\":[{\"text\":\"", text, "\"}]}\n\n");
}

std::string Usage(int prompt, int completion) {
  return absl::StrCat("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":",
                      prompt, ",\"completion_tokens\":", completion, "}}\n\n");
}

constexpr char kDone[] = "data: [DONE]\n\n";

// Sent at 100 ms; then a part every 10 ms from 150 ms on; over at 500 ms.
LoadExchange Stream(const std::vector<std::string>& parts) {
  LoadExchange exchange;
  exchange.start = kBegin + milliseconds(100);
  exchange.end = kBegin + milliseconds(500);
  exchange.status = 200;
  milliseconds at(150);
  for (const std::string& part : parts) {
    exchange.body += part;
    exchange.arrivals.push_back({exchange.body.size(), kBegin + at});
    at += milliseconds(10);
  }
  return exchange;
}

TEST(ReadLoadOutcomeTest, TimesThePiecesOfAWholeStream) {
  const LoadOutcome outcome =
      ReadLoadOutcome(Stream({Piece("a"), Piece("") + Piece("b"), Piece("c"),
                              Usage(7, 3), kDone}),
                      kBegin, 3);
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.tokens, 3);
  EXPECT_EQ(outcome.prompt_tokens, 7);
  EXPECT_DOUBLE_EQ(outcome.start_s, 0.1);
  EXPECT_DOUBLE_EQ(outcome.end_s, 0.5);
  ASSERT_EQ(outcome.pieces_s.size(), 3u);
  EXPECT_DOUBLE_EQ(outcome.pieces_s[0], 0.15);
  EXPECT_DOUBLE_EQ(outcome.pieces_s[1], 0.16);
  EXPECT_DOUBLE_EQ(outcome.pieces_s[2], 0.17);
}

TEST(ReadLoadOutcomeTest, TimesAnEventByItsLastByte) {
  const std::string piece = Piece("a");
  const LoadOutcome outcome = ReadLoadOutcome(
      Stream({piece.substr(0, 9), piece.substr(9), kDone}), kBegin, 1);
  EXPECT_EQ(outcome.error, "");
  ASSERT_EQ(outcome.pieces_s.size(), 1u);
  EXPECT_DOUBLE_EQ(outcome.pieces_s[0], 0.16);
}

TEST(ReadLoadOutcomeTest, CountsPiecesWhenTheServerDoesNot) {
  const LoadOutcome outcome =
      ReadLoadOutcome(Stream({Piece("a"), Piece("b"), kDone}), kBegin, 2);
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.tokens, 2);
}

struct BadCase {
  const char* name;
  std::vector<std::string> parts;
  int status;
  const char* connection_error;
  const char* want;  // how the error begins
};

TEST(ReadLoadOutcomeTest, FindsWhatIsNotWhole) {
  const BadCase cases[] = {
      {"no done", {Piece("a"), Usage(1, 1)}, 200, "", "stream ended without"},
      {"done without its line end",
       {Piece("a"), "data: [DON"},
       200,
       "",
       "not a JSON object"},
      {"short", {Usage(1, 0), kDone}, 200, "", "asked for 1 tokens, got 0"},
      {"long",
       {Piece("a"), Usage(1, 2), kDone},
       200,
       "",
       "asked for 1 tokens, got 2"},
      {"nothing at all", {}, 200, "", "stream ended without"},
      {"error event",
       {"data: {\"error\":{\"code\":3}}\n", kDone},
       200,
       "",
       "{\"code\":3}"},
      {"not JSON", {"data: {\n", kDone}, 200, "", "not a JSON object: {"},
      {"status", {"{\"busy\":1}"}, 429, "", "429 {\"busy\":1}"},
      {"broken off",
       {Piece("a"), Usage(1, 1)},
       200,
       "receive: end of stream",
       "receive: end of stream"},
      {"refused", {}, 0, "connect: refused", "connect: refused"},
  };
  for (const BadCase& c : cases) {
    SCOPED_TRACE(c.name);
    LoadExchange exchange = Stream(c.parts);
    exchange.status = c.status;
    exchange.error = c.connection_error;
    const std::string error = ReadLoadOutcome(exchange, kBegin, 1).error;
    EXPECT_EQ(error.substr(0, std::string(c.want).size()), c.want) << error;
  }
}

TEST(LoadReportTest, PoolsGoodRequestsOnly) {
  LoadOutcome good = {.start_s = 0, .end_s = 2};
  good.pieces_s = {0.5, 0.6, 1.4};
  good.tokens = 3;
  good.prompt_tokens = 10;
  LoadOutcome later = {.start_s = 2, .end_s = 4};
  later.pieces_s = {2.25, 2.5, 2.75};
  later.tokens = 3;
  later.prompt_tokens = 20;
  LoadOutcome bad = later;
  bad.error = "429 busy";
  LoadRun run;
  run.outcomes = {good, bad, later};
  run.wall_s = 4;
  run.asked_tokens = 3;
  run.clients = 1;
  run.window_s = 2;
  const auto report = LoadReport(run);
  EXPECT_EQ(report["out_tok_s"], 1.5);
  EXPECT_EQ(report["requests"], 3);
  EXPECT_EQ(report["errors"], 1);
  EXPECT_EQ(report["first_error"], "429 busy");
  EXPECT_EQ(report["ttft_ms"]["p50"], 250.0);
  EXPECT_EQ(report["ttft_ms"]["p99"], 500.0);
  EXPECT_EQ(report["itl_ms"]["p50"], 250.0);
  EXPECT_EQ(report["max_gap_ms"], 800.0);
  EXPECT_EQ(report["tpot_ms"]["p99"], 450.0);
  EXPECT_EQ(report["e2e_ms"]["p90"], 2000.0);
  EXPECT_EQ(report["out_tokens"], 6);
  EXPECT_EQ(report["in_tokens_mean"], 15.0);
  EXPECT_EQ(report["pieces_per_token"], 1.0);
  EXPECT_EQ(report["window_tok_s"], nlohmann::ordered_json({1.5, 1.5}));
}

TEST(LoadReportTest, SaysNullForWhatWasNotMeasured) {
  LoadRun run;
  run.outcomes.resize(1);
  run.outcomes[0].error = "connect: refused";
  run.wall_s = 0.1;
  const auto report = LoadReport(run);
  EXPECT_EQ(report["errors"], 1);
  EXPECT_EQ(report["out_tok_s"], 0);
  for (const char* key : {"max_gap_ms", "in_tokens_mean", "pieces_per_token"}) {
    EXPECT_TRUE(report[key].is_null()) << key;
  }
  EXPECT_TRUE(report["ttft_ms"]["p50"].is_null());
}

}  // namespace
}  // namespace sluice
