#include "router/flow/prepare.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/grpc_status.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

std::shared_ptr<const ServedModel> Model(
    const std::string& generation_config = "") {
  v1::ModelCard card = ByteModelCard();
  card.set_generation_config_json(generation_config);
  return *ServedModel::FromCard(card);
}

GenerateCall TextCall(const std::string& text) {
  GenerateCall call;
  call.request.set_text(text);
  return call;
}

absl::StatusOr<PreparedRequest> PrepareCall(
    const GenerateCall& call,
    std::shared_ptr<const ServedModel> model = Model()) {
  return Prepare(call, std::move(model), SystemClock::Get());
}

TEST(PrepareTest, FillsDefaultsIn) {
  const auto prepared = PrepareCall(TextCall("hello"));
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->prompt_ids.size(), 5u);
  EXPECT_EQ(prepared->sampling.max_tokens(), 995u);  // the rest
  EXPECT_EQ(prepared->sampling.temperature(), 1);
  EXPECT_EQ(prepared->sampling.top_p(), 1);
  EXPECT_EQ(prepared->num_choices, 1u);
}

TEST(PrepareTest, ModelDefaultsYieldToTheRequest) {
  const auto model = Model(
      R"({"temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.1,
          "repetition_penalty": 1.1, "eos_token_id": [2]})");
  GenerateCall call = TextCall("hello");
  call.request.mutable_sampling()->set_top_p(0.25);
  const auto prepared = PrepareCall(call, model);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_FLOAT_EQ(prepared->sampling.temperature(), 0.5);
  EXPECT_FLOAT_EQ(prepared->sampling.top_p(), 0.25);
  EXPECT_EQ(prepared->sampling.top_k(), 40u);
  EXPECT_FLOAT_EQ(prepared->sampling.repetition_penalty(), 1.1);
}

TEST(PrepareTest, SeedsAreDrawnOnceOrKept) {
  GenerateCall call = TextCall("a");
  EXPECT_NE(PrepareCall(call)->seed, PrepareCall(call)->seed);
  call.request.mutable_sampling()->set_seed(42);
  EXPECT_EQ(PrepareCall(call)->seed, 42u);
  EXPECT_FALSE(PrepareCall(call)->sampling.has_seed());
}

TEST(PrepareTest, KeepsTheEndOfATruncatedPrompt) {
  GenerateCall call = TextCall("abcdef");
  call.request.mutable_sampling()->set_truncate_prompt_tokens(2);
  EXPECT_EQ(PrepareCall(call)->prompt_ids, (std::vector<uint32_t>{'e', 'f'}));
  call.request.mutable_sampling()->set_truncate_prompt_tokens(0);
  EXPECT_FALSE(PrepareCall(call).ok());
}

TEST(PrepareTest, SpecialTokensByInput) {
  EXPECT_EQ(PrepareCall(TextCall("a<|end|>"))->prompt_ids,
            (std::vector<uint32_t>{'a', kByteEos}));
  GenerateCall chat;
  chat.request.mutable_chat()->set_messages_json(
      R"([{"role":"user","content":"x"}])");
  EXPECT_EQ(PrepareCall(chat)->prompt_ids.size(),
            std::string("<user>x<assistant>").size());
  chat.add_generation_prompt = false;
  EXPECT_EQ(PrepareCall(chat)->prompt_ids.size(),
            std::string("<user>x").size());
}

TEST(PrepareTest, ErrorsNameTheirField) {
  GenerateCall call = TextCall("abc");
  call.request.mutable_sampling()->set_top_p(2);
  EXPECT_EQ(BlamedField(PrepareCall(call).status()), "top_p");
  call = TextCall(std::string(2000, 'x'));
  const absl::Status long_prompt = PrepareCall(call).status();
  EXPECT_EQ(BlamedField(long_prompt), "prompt");
  EXPECT_EQ(ReasonOf(long_prompt), "CONTEXT_LENGTH_EXCEEDED");
  call = TextCall("abc");
  call.request.mutable_sampling()->add_stop("");
  EXPECT_EQ(BlamedField(PrepareCall(call).status()), "stop");
  call = TextCall("\xFF");
  EXPECT_EQ(BlamedField(PrepareCall(call).status()), "prompt");
  call = TextCall("abc");
  call.request.set_cache_salt(std::string(257, 's'));
  EXPECT_EQ(BlamedField(CheckCall(call)), "cache_salt");
  call = TextCall("abc");
  for (int i = 0; i < 17; ++i) {
    (*call.request.mutable_labels())[std::to_string(i)] = "v";
  }
  EXPECT_EQ(BlamedField(CheckCall(call)), "labels");
  call = TextCall("abc");
  call.request.mutable_chat()->set_tools_json("[]");
  EXPECT_EQ(ReasonOf(CheckCall(call)), "UNSUPPORTED_PARAMETER");
}

TEST(PrepareTest, RequestIds) {
  for (const char* good : {"a", "A.b_c-9"}) EXPECT_TRUE(IsRequestId(good));
  for (const std::string& bad : {std::string(), std::string("a b"),
                                 std::string("a/b"), std::string(129, 'a')}) {
    EXPECT_FALSE(IsRequestId(bad));
  }
}

// The exact size that a message of this many log probabilities may have.
TEST(PrepareTest, PromptLogprobsMustFitOneMessage) {
  GenerateCall call = TextCall(std::string(100, 'x'));
  v1::SamplingParams& sampling = *call.request.mutable_sampling();
  sampling.set_prompt_logprobs(2);
  const uint64_t native = 100 * (3 * 13 + 4);
  v1::Logprobs largest;
  for (int i = 0; i < 100; ++i) {
    v1::PositionLogprobs& position = *largest.add_positions();
    for (int j = 0; j < 3; ++j) {
      v1::TokenLogprob& token =
          j == 0 ? *position.mutable_chosen() : *position.add_top();
      token.set_token_id((1u << 28) - 1);
      token.set_logprob(-1);
    }
  }
  EXPECT_LE(largest.ByteSizeLong(), native);
  call.max_prompt_logprobs_bytes = native;
  EXPECT_TRUE(PrepareCall(call).ok());
  call.max_prompt_logprobs_bytes = native - 1;
  EXPECT_EQ(BlamedField(PrepareCall(call).status()), "prompt_logprobs");
  // As JSON, and in each choice.
  call.surface = Surface::kOpenAi;
  sampling.set_n(2);
  call.max_prompt_logprobs_bytes = 2 * 300 * 96;
  EXPECT_TRUE(PrepareCall(call).ok());
  sampling.set_n(3);
  EXPECT_FALSE(PrepareCall(call).ok());
}

}  // namespace
}  // namespace sluice::router
