// From the wire to what the sampler reads: defaults and clamps.
#include "worker/sampling/params.h"

#include <vector>

#include "gtest/gtest.h"

namespace sluice::worker {
namespace {

constexpr PromptRoom kRoom{.prompt_tokens = 10, .model_length = 100};

TEST(MakeSamplingParamsTest, Defaults) {
  const SamplingParams params = MakeSamplingParams({}, 5, kRoom);
  EXPECT_EQ(params.temperature, 1);
  EXPECT_EQ(params.top_k, 0);
  EXPECT_EQ(params.top_p, 1);
  EXPECT_EQ(params.min_p, 0);
  EXPECT_EQ(params.repetition_penalty, 1);
  EXPECT_EQ(params.frequency_penalty, 0);
  EXPECT_EQ(params.presence_penalty, 0);
  EXPECT_TRUE(params.logit_bias.empty());
  EXPECT_EQ(params.max_tokens, 90);
  EXPECT_EQ(params.min_tokens, 0);
  EXPECT_TRUE(params.stop_token_ids.empty());
  EXPECT_FALSE(params.ignore_eos);
  EXPECT_EQ(params.n, 1);
  EXPECT_EQ(params.logprobs, -1);
  EXPECT_EQ(params.prompt_logprobs, -1);
  EXPECT_EQ(params.seed, 5);
}

TEST(MakeSamplingParamsTest, EveryFieldArrives) {
  v1::SamplingParams wire;
  wire.set_temperature(0);
  wire.set_top_k(40);
  wire.set_top_p(0);
  wire.set_min_p(0.25);
  wire.set_repetition_penalty(1.5);
  wire.set_frequency_penalty(-2);
  wire.set_presence_penalty(2);
  (*wire.mutable_logit_bias())[9] = -100;
  (*wire.mutable_logit_bias())[3] = 1;
  wire.set_max_tokens(20);
  wire.set_min_tokens(3);
  wire.add_stop_token_ids(4);
  wire.set_ignore_eos(true);
  wire.set_n(128);
  wire.set_logprobs(0);
  wire.set_prompt_logprobs(20);
  wire.set_seed(9);  // the request's own field counts
  const SamplingParams params = MakeSamplingParams(wire, 7, kRoom);
  EXPECT_EQ(params.temperature, 0);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.top_p, 0);
  EXPECT_EQ(params.min_p, 0.25);
  EXPECT_EQ(params.repetition_penalty, 1.5);
  EXPECT_EQ(params.frequency_penalty, -2);
  EXPECT_EQ(params.presence_penalty, 2);
  ASSERT_EQ(params.logit_bias.size(), 2);
  EXPECT_EQ(params.logit_bias[0].token, 3);  // by id
  EXPECT_EQ(params.logit_bias[1].bias, -100);
  EXPECT_EQ(params.max_tokens, 20);
  EXPECT_EQ(params.min_tokens, 3);
  EXPECT_EQ(params.stop_token_ids, std::vector<TokenId>{4});
  EXPECT_TRUE(params.ignore_eos);
  EXPECT_EQ(params.n, 128);
  EXPECT_EQ(params.logprobs, 0);
  EXPECT_EQ(params.prompt_logprobs, 20);
  EXPECT_EQ(params.seed, 7);
}

TEST(MakeSamplingParamsTest, Clamps) {
  v1::SamplingParams wire;
  wire.set_max_tokens(1000);
  EXPECT_EQ(MakeSamplingParams(wire, 0, kRoom).max_tokens, 90);
  EXPECT_EQ(
      MakeSamplingParams(wire, 0, {.prompt_tokens = 200, .model_length = 100})
          .max_tokens,
      1);
  wire.set_top_k(UINT32_MAX);  // -1
  EXPECT_EQ(MakeSamplingParams(wire, 0, kRoom).top_k, 0);
}

}  // namespace
}  // namespace sluice::worker
