// Every row of the parameter table: edges pass, the first value outside fails
// with the exact text (sampling specification, sections 2 and 13.7).
#include "proto/sampling_check.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/grpc_status.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using v1::SamplingParams;
constexpr SamplingBounds kBounds{.vocab = 1000, .model_length = 4096};
constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

struct Case {
  std::function<void(SamplingParams&)> edit;
  std::string want;  // empty: accepted
};

void Bias(SamplingParams& params, int32_t token, float value) {
  (*params.mutable_logit_bias())[token] = value;
}

void CheckAll(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SamplingParams params;
    c.edit(params);
    const absl::Status status = CheckSampling(params, kBounds);
    if (c.want.empty()) {
      EXPECT_TRUE(status.ok()) << status;
    } else {
      EXPECT_EQ(status, absl::InvalidArgumentError(c.want));
    }
  }
}

TEST(CheckSamplingTest, NothingSet) {
  EXPECT_TRUE(CheckSampling({}, kBounds).ok());
}

TEST(CheckSamplingTest, Temperature) {
  const float above = std::nextafter(2.0f, 3.0f);
  const std::string text = "temperature must be finite and in [0, 2], got ";
  CheckAll({{[](auto& p) { p.set_temperature(0); }, ""},
            {[](auto& p) { p.set_temperature(2); }, ""},
            {[](auto& p) { p.set_temperature(1e-6f); }, ""},
            {[above](auto& p) { p.set_temperature(above); }, text + "2"},
            {[](auto& p) { p.set_temperature(2.5f); }, text + "2.5"},
            {[](auto& p) { p.set_temperature(-0.5f); }, text + "-0.5"},
            {[](auto& p) { p.set_temperature(kInf); }, text + "inf"},
            {[](auto& p) { p.set_temperature(kNan); }, text + "nan"},
            {[](auto& p) { p.set_thinking_temperature(3); },
             "thinking_temperature must be finite and in [0, 2], got 3"}});
}

TEST(CheckSamplingTest, Truncation) {
  CheckAll(
      {{[](auto& p) { p.set_top_k(0); }, ""},
       {[](auto& p) { p.set_top_k(1); }, ""},
       {[](auto& p) { p.set_top_k(2000000000); }, ""},
       {[](auto& p) { p.set_top_k(static_cast<uint32_t>(-1)); }, ""},
       {[](auto& p) { p.set_top_k(static_cast<uint32_t>(-2)); },
        "top_k must be -1, 0 or positive, got -2"},
       {[](auto& p) { p.set_top_p(0); }, ""},
       {[](auto& p) { p.set_top_p(1); }, ""},
       {[](auto& p) { p.set_top_p(1.5f); }, "top_p must be in [0, 1], got 1.5"},
       {[](auto& p) { p.set_top_p(-0.25f); },
        "top_p must be in [0, 1], got -0.25"},
       {[](auto& p) { p.set_top_p(kNan); }, "top_p must be in [0, 1], got nan"},
       {[](auto& p) { p.set_min_p(0); }, ""},
       {[](auto& p) { p.set_min_p(1); }, ""},
       {[](auto& p) { p.set_min_p(1.25f); },
        "min_p must be in [0, 1], got 1.25"},
       {[](auto& p) { p.set_min_p(-1); }, "min_p must be in [0, 1], got -1"}});
}

TEST(CheckSamplingTest, Penalties) {
  CheckAll({{[](auto& p) { p.set_repetition_penalty(1e-30f); }, ""},
            {[](auto& p) { p.set_repetition_penalty(1e30f); }, ""},
            {[](auto& p) { p.set_repetition_penalty(0); },
             "repetition_penalty must be finite and positive, got 0"},
            {[](auto& p) { p.set_repetition_penalty(-1); },
             "repetition_penalty must be finite and positive, got -1"},
            {[](auto& p) { p.set_repetition_penalty(kInf); },
             "repetition_penalty must be finite and positive, got inf"},
            {[](auto& p) { p.set_frequency_penalty(-2); }, ""},
            {[](auto& p) { p.set_frequency_penalty(2); }, ""},
            {[](auto& p) { p.set_frequency_penalty(2.5f); },
             "frequency_penalty must be in [-2, 2], got 2.5"},
            {[](auto& p) { p.set_presence_penalty(-2); }, ""},
            {[](auto& p) { p.set_presence_penalty(2); }, ""},
            {[](auto& p) { p.set_presence_penalty(-2.5f); },
             "presence_penalty must be in [-2, 2], got -2.5"}});
}

TEST(CheckSamplingTest, LogitBias) {
  CheckAll({{[](auto& p) { Bias(p, 0, -100); }, ""},
            {[](auto& p) { Bias(p, 999, 100); }, ""},
            {[](auto& p) { Bias(p, 1000, 0); },
             "logit_bias token 1000 is outside [0, 1000)"},
            {[](auto& p) { Bias(p, -1, 0); },
             "logit_bias token -1 is outside [0, 1000)"},
            {[](auto& p) { Bias(p, 5, 100.5f); },
             "logit_bias for token 5 must be in [-100, 100], got 100.5"},
            {[](auto& p) { Bias(p, 5, kNan); },
             "logit_bias for token 5 must be in [-100, 100], got nan"},
            {[](auto& p) {
               Bias(p, 2000, 0);
               Bias(p, 1500, 0);
             },
             "logit_bias token 1500 is outside [0, 1000)"}});
  SamplingParams full;
  const SamplingBounds wide{.vocab = 5000, .model_length = 4096};
  for (int i = 0; i < 1024; ++i) Bias(full, i, 1);
  EXPECT_TRUE(CheckSampling(full, wide).ok());
  Bias(full, 1024, 1);
  EXPECT_EQ(
      CheckSampling(full, wide),
      absl::InvalidArgumentError("logit_bias has 1025 entries, limit 1024"));
}

TEST(CheckSamplingTest, Lengths) {
  CheckAll({{[](auto& p) { p.set_max_tokens(1); }, ""},
            {[](auto& p) { p.set_max_tokens(2147483647); }, ""},
            {[](auto& p) { p.set_max_tokens(0); },
             "max_tokens must be positive, got 0"},
            {[](auto& p) { p.set_max_tokens(static_cast<uint32_t>(-5)); },
             "max_tokens must be positive, got -5"},
            {[](auto& p) {
               p.set_max_tokens(7);
               p.set_min_tokens(7);
             },
             ""},
            {[](auto& p) {
               p.set_max_tokens(7);
               p.set_min_tokens(8);
             },
             "min_tokens must be in [0, max_tokens=7], got 8"},
            {[](auto& p) { p.set_min_tokens(4096); }, ""},
            {[](auto& p) { p.set_min_tokens(4097); },
             "min_tokens must be in [0, max_tokens=4096], got 4097"}});
}

TEST(CheckSamplingTest, Stops) {
  const std::string text =
      "stop must be at most 16 non-empty strings of at most 256 bytes";
  const auto ids = [](int count) {
    return [count](SamplingParams& p) {
      for (int i = 0; i < count; ++i) p.add_stop_token_ids(i);
    };
  };
  const auto strings = [](int count, size_t bytes) {
    return [count, bytes](SamplingParams& p) {
      for (int i = 0; i < count; ++i) p.add_stop(std::string(bytes, 'x'));
    };
  };
  CheckAll({{ids(128), ""},
            {ids(129), "stop_token_ids has 129 entries, limit 128"},
            {[](auto& p) { p.add_stop_token_ids(999); }, ""},
            {[](auto& p) { p.add_stop_token_ids(1000); },
             "stop token 1000 is outside [0, 1000)"},
            {strings(16, 256), ""},
            {strings(16, 1), ""},
            {strings(17, 1), text},
            {strings(1, 257), text},
            {strings(1, 0), text}});
}

TEST(CheckSamplingTest, Outputs) {
  CheckAll(
      {{[](auto& p) { p.set_n(1); }, ""},
       {[](auto& p) { p.set_n(128); }, ""},
       {[](auto& p) { p.set_n(0); }, "n must be in [1, 128], got 0"},
       {[](auto& p) { p.set_n(129); }, "n must be in [1, 128], got 129"},
       {[](auto& p) { p.set_logprobs(0); }, ""},
       {[](auto& p) { p.set_logprobs(20); }, ""},
       {[](auto& p) { p.set_logprobs(21); },
        "logprobs must be in [0, 20], got 21"},
       {[](auto& p) { p.set_logprobs(-1); },
        "logprobs must be in [0, 20], got -1"},
       {[](auto& p) { p.set_prompt_logprobs(20); }, ""},
       {[](auto& p) { p.set_prompt_logprobs(21); },
        "prompt_logprobs must be in [0, 20], got 21"},
       {[](auto& p) { p.set_seed(std::numeric_limits<int64_t>::min()); }, ""}});
}

TEST(CheckSamplingTest, TheFirstBrokenRowIsReported) {
  SamplingParams params;
  params.set_logprobs(99);
  params.set_n(0);
  params.set_top_p(2);
  params.set_min_tokens(5000);
  params.set_regex("a*");
  EXPECT_EQ(CheckSampling(params, kBounds).message(),
            "top_p must be in [0, 1], got 2");
  params.clear_top_p();
  EXPECT_EQ(CheckSampling(params, kBounds).message(),
            "min_tokens must be in [0, max_tokens=4096], got 5000");
  params.clear_min_tokens();
  EXPECT_EQ(CheckSampling(params, kBounds).message(),
            "n must be in [1, 128], got 0");
}

TEST(CheckSamplingTest, WhatNoWorkerHonoursIsUnimplemented) {
  const std::vector<
      std::pair<std::string, std::function<void(SamplingParams&)>>>
      cases = {
          {"thinking_temperature",
           [](auto& p) { p.set_thinking_temperature(1); }},
          {"json_schema", [](auto& p) { p.set_json_schema("{}"); }},
          {"regex", [](auto& p) { p.set_regex("a"); }},
          {"grammar", [](auto& p) { p.set_grammar("g"); }},
          {"structural_tag", [](auto& p) { p.set_structural_tag("t"); }},
          {"json_object", [](auto& p) { p.set_json_object(true); }},
          {"choice", [](auto& p) { p.mutable_choice()->add_choices("a"); }},
      };
  for (const auto& [name, edit] : cases) {
    SamplingParams params;
    edit(params);
    const absl::Status status = CheckSampling(params, kBounds);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_EQ(status.message(), name + " is not supported");
    EXPECT_EQ(ReasonOf(status), "UNSUPPORTED_PARAMETER");
  }
}

}  // namespace
}  // namespace sluice
