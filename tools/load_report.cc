#include "tools/load_report.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostErrorBytes = 200;

double Seconds(LoadExchange::Time from, LoadExchange::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

double Round(double value, double scale) {
  return std::round(value * scale) / scale;
}

bool HasText(const Json& event) {
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array()) return false;
  for (const Json& choice : *choices) {
    if (!choice.is_object()) continue;
    const auto text = choice.find("text");
    if (text != choice.end() && text->is_string() &&
        !text->get_ref<const std::string&>().empty()) {
      return true;
    }
  }
  return false;
}

int64_t CountIn(const Json& usage, const char* key) {
  const auto found = usage.find(key);
  return found != usage.end() && found->is_number_integer()
             ? found->get<int64_t>()
             : -1;
}

// Takes the events of one stream, in order.
class EventReader {
 public:
  explicit EventReader(LoadOutcome& outcome) : outcome_(outcome) {}

  void TakeLine(absl::string_view line, double at_s) {
    if (!absl::ConsumePrefix(&line, "data:")) return;
    line = absl::StripAsciiWhitespace(line);
    if (line == "[DONE]") {
      done_ = true;
      return;
    }
    const Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!event.is_object()) {
      return Fail(absl::StrCat("not a JSON object: ", line));
    }
    const auto error = event.find("error");
    if (error != event.end() && !error->is_null()) Fail(error->dump());
    const auto usage = event.find("usage");
    if (usage != event.end() && usage->is_object()) {
      counted_ = CountIn(*usage, "completion_tokens");
      outcome_.prompt_tokens = std::max<int64_t>(
          CountIn(*usage, "prompt_tokens"), outcome_.prompt_tokens);
    }
    if (HasText(event)) outcome_.pieces_s.push_back(at_s);
  }

  void Finish(int asked_tokens) {
    const auto pieces = static_cast<int64_t>(outcome_.pieces_s.size());
    outcome_.tokens = counted_ >= 0 ? counted_ : pieces;
    if (!done_) Fail("stream ended without [DONE]");
    if (outcome_.tokens != asked_tokens) {
      Fail(absl::StrCat("asked for ", asked_tokens, " tokens, got ",
                        outcome_.tokens));
    }
  }

  // The first one stands.
  void Fail(absl::string_view what) {
    if (outcome_.error.empty()) {
      outcome_.error = std::string(what.substr(0, kMostErrorBytes));
    }
  }

 private:
  LoadOutcome& outcome_;
  int64_t counted_ = -1;
  bool done_ = false;
};

Json Spread(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  Json spread;
  for (const int q : {50, 90, 99}) {
    Json& value = spread[absl::StrCat("p", q)];
    if (seconds.empty()) continue;
    const auto last = static_cast<double>(seconds.size() - 1);
    value = Round(
        1e3 * seconds[static_cast<size_t>(std::nearbyint(q / 100.0 * last))],
        100);
  }
  return spread;
}

// What the good requests took, pooled.
struct Times {
  std::vector<double> first, gaps, per_token, whole;
  int64_t good = 0;
  int64_t tokens = 0;
  int64_t pieces = 0;
  int64_t prompt_tokens = 0;
};

Times Pool(const LoadRun& run) {
  Times times;
  for (const LoadOutcome& outcome : run.outcomes) {
    if (!outcome.error.empty()) continue;
    const std::vector<double>& pieces = outcome.pieces_s;
    ++times.good;
    times.tokens += outcome.tokens;
    times.pieces += static_cast<int64_t>(pieces.size());
    times.prompt_tokens += outcome.prompt_tokens;
    times.whole.push_back(outcome.end_s - outcome.start_s);
    if (pieces.empty()) continue;
    times.first.push_back(pieces.front() - outcome.start_s);
    for (size_t i = 1; i < pieces.size(); ++i) {
      times.gaps.push_back(pieces[i] - pieces[i - 1]);
    }
    if (pieces.size() > 1 && run.asked_tokens > 1) {
      times.per_token.push_back((pieces.back() - pieces.front()) /
                                (run.asked_tokens - 1));
    }
  }
  return times;
}

// A piece counts as the tokens it stands for on average in its stream.
Json WindowRates(const LoadRun& run) {
  std::vector<double> tokens(static_cast<size_t>(run.wall_s / run.window_s));
  for (const LoadOutcome& outcome : run.outcomes) {
    if (!outcome.error.empty() || outcome.pieces_s.empty()) continue;
    const double each = static_cast<double>(outcome.tokens) /
                        static_cast<double>(outcome.pieces_s.size());
    for (const double at_s : outcome.pieces_s) {
      const auto window = static_cast<size_t>(at_s / run.window_s);
      if (window < tokens.size()) tokens[window] += each;
    }
  }
  Json rates = Json::array();
  for (const double n : tokens) rates.push_back(Round(n / run.window_s, 100));
  return rates;
}

}  // namespace

LoadOutcome ReadLoadOutcome(const LoadExchange& exchange,
                            LoadExchange::Time begin, int asked_tokens) {
  LoadOutcome outcome;
  outcome.start_s = Seconds(begin, exchange.start);
  outcome.end_s = Seconds(begin, exchange.end);
  EventReader reader(outcome);
  if (!exchange.error.empty()) reader.Fail(exchange.error);
  if (exchange.status != 200) {
    reader.Fail(absl::StrCat(exchange.status, " ", exchange.body));
    return outcome;
  }
  const absl::string_view body = exchange.body;
  size_t arrival = 0;
  for (size_t at = 0; at < body.size();) {
    const size_t end = std::min(body.find('\n', at), body.size() - 1);
    while (exchange.arrivals[arrival].end <= end) ++arrival;
    reader.TakeLine(body.substr(at, end + 1 - at),
                    Seconds(begin, exchange.arrivals[arrival].at));
    at = end + 1;
  }
  reader.Finish(asked_tokens);
  return outcome;
}

Json LoadReport(const LoadRun& run) {
  const Times times = Pool(run);
  const auto good = static_cast<double>(times.good);
  const auto tokens = static_cast<double>(times.tokens);
  Json report = {
      {"out_tok_s", Round(tokens / run.wall_s, 100)},
      {"req_s", Round(good / run.wall_s, 1000)},
      {"wall_s", Round(run.wall_s, 100)},
      {"ttft_ms", Spread(times.first)},
      {"itl_ms", Spread(times.gaps)},
      {"max_gap_ms", nullptr},
      {"tpot_ms", Spread(times.per_token)},
      {"e2e_ms", Spread(times.whole)},
      {"requests", run.outcomes.size()},
      {"errors", static_cast<int64_t>(run.outcomes.size()) - times.good},
      {"first_error", nullptr},
      {"out_tokens", times.tokens},
      {"in_tokens_mean", nullptr},
      {"pieces_per_token", nullptr},
      {"clients", run.clients},
      {"rate", 0},
      {"seed", run.seed},
      {"window_tok_s", WindowRates(run)},
      {"client_cpu_s", Round(run.cpu_s, 1000)},
  };
  if (!times.gaps.empty()) {
    report["max_gap_ms"] = Round(
        1e3 * *std::max_element(times.gaps.begin(), times.gaps.end()), 100);
  }
  if (times.good > 0) {
    report["in_tokens_mean"] = static_cast<double>(times.prompt_tokens) / good;
  }
  if (times.tokens > 0) {
    report["pieces_per_token"] =
        Round(static_cast<double>(times.pieces) / tokens, 1000);
  }
  const auto bad = std::find_if(
      run.outcomes.begin(), run.outcomes.end(),
      [](const LoadOutcome& outcome) { return !outcome.error.empty(); });
  if (bad != run.outcomes.end()) report["first_error"] = bad->error;
  return report;
}

}  // namespace sluice
