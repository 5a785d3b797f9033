#include "router/cluster/served_model.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

TEST(ServedModelTest, RoundTripsText) {
  const auto model = ServedModel::FromCard(ByteModelCard());
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string text = "h\xC3\xA9llo w\xE2\x82\xACrld<|end|>";
  const auto ids = (*model)->Tokenize(text, {.parse_special = true});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->ids.back(), static_cast<int32_t>(kByteEos));
  const std::vector<uint32_t> unsigned_ids(ids->ids.begin(), ids->ids.end());
  EXPECT_EQ(*(*model)->Detokenize(unsigned_ids), text);
  EXPECT_EQ((*model)->Detokenize(std::vector<uint32_t>{259}).status().message(),
            "token 259 is outside [0, 259)");
}

TEST(ServedModelTest, RendersChats) {
  const auto model = ServedModel::FromCard(ByteModelCard());
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(*(*model)->RenderChat(
                {.messages_json = R"([{"role":"user","content":"a"}])"}),
            "<user>a<assistant>");
  EXPECT_FALSE((*model)->RenderChat({.messages_json = "{"}).ok());
  v1::ModelCard card = ByteModelCard();
  card.clear_chat_template();
  EXPECT_EQ((*ServedModel::FromCard(card))
                ->RenderChat({.messages_json = "[]"})
                .status()
                .message(),
            "the model has no chat template");
}

TEST(ServedModelTest, RefusesCards) {
  const std::pair<void (*)(v1::ModelCard&), const char*> cases[] = {
      {[](auto& c) { c.clear_model(); },
       "model name has 0 bytes, must be 1..256"},
      {[](auto& c) { c.set_model_digest("x"); },
       "model_digest has 1 bytes, must be 32"},
      {[](auto& c) { c.set_vocab(0); },
       "max_context 1000 and vocab 0 must not be 0"},
      {[](auto& c) { c.mutable_tokenizer()->set_gguf_model("bert"); },
       "tokenizer `gguf` / `bert` is not supported"}};
  for (const auto& [change, message] : cases) {
    v1::ModelCard card = ByteModelCard();
    change(card);
    const absl::Status status = ServedModel::FromCard(card).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), message);
  }
  v1::ModelCard card = ByteModelCard();
  card.set_generation_config_json("{");
  EXPECT_FALSE(ServedModel::FromCard(card).ok());
  card = ByteModelCard();
  card.set_chat_template("{% if %}");
  EXPECT_FALSE(ServedModel::FromCard(card).ok());
}

TEST(ServedModelTest, ReadsDefaults) {
  v1::ModelCard card = ByteModelCard();
  card.set_generation_config_json(
      R"({"temperature": 0.6, "top_k": 20, "top_p": "x", "do_sample": true})");
  const auto model = ServedModel::FromCard(card);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FLOAT_EQ(*(*model)->defaults().temperature, 0.6);
  EXPECT_EQ(*(*model)->defaults().top_k, 20);
  EXPECT_FALSE((*model)->defaults().top_p.has_value());
}

}  // namespace
}  // namespace sluice::router
