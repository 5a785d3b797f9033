#include "router/flow/answer.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "router/cluster/served_model.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

std::shared_ptr<const ServedModel> Model() {
  static const auto* model = new std::shared_ptr<const ServedModel>(
      *ServedModel::FromCard(ByteModelCard()));
  return *model;
}

Answer MakeAnswer(StopOptions stop, uint32_t n = 1) {
  auto text = std::make_shared<TextOptions>();
  text->tokenizer = &Model()->tokenizer();
  text->stop = std::move(stop);
  text->silent_ids = {kByteEos};
  return *Answer::Create(n, text);
}

v1::TokenDelta Delta(uint32_t position, const std::string& text,
                     bool logprobs = false) {
  v1::TokenDelta delta = DeltaEvent(0, position, text).delta();
  for (size_t i = 0; logprobs && i < text.size(); ++i) {
    delta.mutable_logprobs()->add_positions()->mutable_chosen()->set_logprob(
        -static_cast<float>(position + i));
  }
  return delta;
}

v1::ChoiceEnd Ended(uint32_t positions) {
  return ChoiceEndEvent(0, positions, v1::ChoiceEnd::LENGTH).choice_end();
}

TEST(AnswerTest, LogprobsAreCutWithTheirTokens) {
  Answer answer = MakeAnswer({.stops = {"c"}});
  const auto first = answer.Take(Delta(0, "ab", true));
  ASSERT_TRUE(first.ok());
  // Position 1 comes again; "c" at 2 stops; "d" is not taken.
  const auto second = answer.Take(Delta(1, "bcd", true));
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->delta->first_position(), 2u);
  ASSERT_EQ(second->delta->logprobs().positions_size(), 1);
  EXPECT_EQ(second->delta->logprobs().positions(0).chosen().logprob(), -2);
  EXPECT_EQ(second->end->positions(), 3u);
  EXPECT_EQ(answer.num_tokens(), 3u);
  EXPECT_TRUE(answer.all_ended());
  EXPECT_EQ(answer.FinishReasons(), "stop");
}

TEST(AnswerTest, HeldBackTextComesWithTheEnd) {
  Answer answer = MakeAnswer({.stops = {"xyz"}});
  const auto step = answer.Take(Delta(0, "axy"));
  EXPECT_EQ(step->delta->text(), "a");
  EXPECT_EQ(step->delta->token_ids_size(), 3);
  const auto end = answer.Take(Ended(3));
  EXPECT_EQ(end->delta->text(), "xy");
  EXPECT_EQ(end->delta->first_position(), 3u);
  EXPECT_EQ(end->delta->token_ids_size(), 0);
  EXPECT_EQ(end->end->reason(), v1::ChoiceEnd::LENGTH);
}

TEST(AnswerTest, BrokenUtf8BecomesTextOnlyWhenDecided) {
  Answer answer = MakeAnswer({});
  EXPECT_EQ(answer.Take(Delta(0, "\xE2\x82"))->delta->text(), "");
  EXPECT_EQ(answer.Take(Delta(2, "\xAC\xF0"))->delta->text(), "\xE2\x82\xAC");
  EXPECT_EQ(answer.Take(Ended(4))->delta->text(), "\xEF\xBF\xBD");
}

TEST(AnswerTest, TheEndTokenIsNoText) {
  Answer answer = MakeAnswer({});
  v1::TokenDelta delta = Delta(0, "a");
  delta.add_token_ids(kByteEos);
  const auto step = answer.Take(std::move(delta));
  EXPECT_EQ(step->delta->text(), "a");
  EXPECT_EQ(answer.num_tokens(), 2u);
}

TEST(AnswerTest, RefusesWhatDoesNotFit) {
  Answer answer = MakeAnswer({}, 2);
  v1::TokenDelta other = Delta(0, "a");
  other.set_choice(2);
  EXPECT_EQ(answer.Take(other).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(answer.Take(Delta(1, "a")).status().message(),
            "worker sent position 1 of choice 0, want 0");
  EXPECT_FALSE(answer.Take(Ended(1)).ok());
  EXPECT_TRUE(answer.Take(Ended(0)).ok());
  EXPECT_FALSE(answer.all_ended());
  EXPECT_EQ(answer.FinishReasons(), "length,-");
  // After the end nothing counts.
  EXPECT_FALSE(answer.Take(Delta(0, "a"))->delta.has_value());
  EXPECT_FALSE(answer.Take(Ended(0))->end.has_value());
}

// However the tokens are cut into events, the reader gets the same text.
TEST(AnswerTest, TextDoesNotDependOnChunks) {
  const std::string tokens = "ab\xC3\xA9 the end of it";
  for (const StopOptions& stop :
       {StopOptions{}, StopOptions{.stops = {"the"}},
        StopOptions{.stops = {"\xC3\xA9 t", "end"}, .include_stop = true},
        StopOptions{.stops = {"b", "of"}, .min_tokens = 5}}) {
    std::string want;
    uint32_t want_tokens = 0;
    std::mt19937 random(3);
    for (int round = 0; round < 50; ++round) {
      Answer answer = MakeAnswer(stop);
      std::string got;
      uint32_t at = 0;
      while (at < tokens.size() && !answer.all_ended()) {
        const size_t size = round == 0 ? tokens.size() : 1 + random() % 4;
        const std::string part = tokens.substr(at, size);
        const auto step = answer.Take(Delta(at, part));
        ASSERT_TRUE(step.ok());
        got += step->delta->text();
        at += static_cast<uint32_t>(part.size());
      }
      if (!answer.all_ended()) {
        const auto end = answer.Take(Ended(at));
        if (end->delta.has_value()) got += end->delta->text();
      }
      if (round == 0) {
        want = got;
        want_tokens = answer.num_tokens();
      }
      EXPECT_EQ(got, want);
      EXPECT_EQ(answer.num_tokens(), want_tokens);
    }
  }
}

}  // namespace
}  // namespace sluice::router
