#include "tests/worker/model/golden_prompts.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace sluice::worker {
namespace {

using Json = nlohmann::json;

Json ReadJson(const std::string& path) {
  std::ifstream in(path);
  SLUICE_CHECK(in.good());
  Json json = Json::parse(in, nullptr, false);
  SLUICE_CHECK(!json.is_discarded());
  return json;
}

void ReadGreedy(const Json& json, GoldenPrompt* prompt) {
  prompt->ids = json["ids"].get<std::vector<int32_t>>();
  prompt->greedy = json["greedy"].get<std::vector<int32_t>>();
  prompt->gap = json["gap"].get<std::vector<double>>();
}

}  // namespace

std::vector<GoldenPrompt> ReadSmolLm2Prompts() {
  std::vector<GoldenPrompt> prompts;
  for (const Json& json : ReadJson("tests/golden/smollm2_logits.json")) {
    GoldenPrompt prompt;
    prompt.name = json["name"].get<std::string>();
    ReadGreedy(json, &prompt);
    for (const Json& at : json["positions"]) {
      prompt.positions.push_back(
          {.position = at["pos"].get<int32_t>(),
           .ids = at["top_ids"].get<std::vector<int32_t>>(),
           .values = at["logprobs"].get<std::vector<double>>()});
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<GoldenPrompt> ReadTinyPrompts(const std::string& family) {
  std::vector<GoldenPrompt> prompts;
  const Json json = ReadJson("tests/golden/tiny/" + family + ".json");
  for (const Json& at : json["prompts"]) {
    GoldenPrompt prompt;
    prompt.name = family;
    ReadGreedy(at, &prompt);
    for (size_t p = 0; p < at["top_ids"].size(); ++p) {
      prompt.positions.push_back(
          {.position = static_cast<int32_t>(p),
           .ids = at["top_ids"][p].get<std::vector<int32_t>>(),
           .values = at["top_logits"][p].get<std::vector<double>>()});
    }
    prompt.last_logits = at["last_logits"].get<std::vector<double>>();
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<double> LogSoftmax(absl::Span<const float> logits) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(x - best);
  std::vector<double> out(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    out[i] = logits[i] - best - std::log(sum);
  }
  return out;
}

GreedyComparison CompareGreedy(const GoldenPrompt& golden,
                               absl::Span<const int32_t> greedy,
                               double epsilon) {
  GreedyComparison out;
  for (size_t i = 0; i < golden.greedy.size() && i < greedy.size(); ++i) {
    if (golden.gap[i] < epsilon) return out;
    if (greedy[i] != golden.greedy[i]) {
      out.differs_at = static_cast<int>(i);
      return out;
    }
    ++out.compared;
  }
  return out;
}

}  // namespace sluice::worker
