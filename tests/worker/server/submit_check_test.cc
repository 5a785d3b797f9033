#include "worker/server/submit_check.h"

#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::worker {
namespace {

WorkerFacts Facts(v1::Role role) {
  WorkerFacts facts;
  facts.identity.set_instance("w");
  facts.identity.set_role(role);
  facts.identity.set_model_digest("digest01");
  facts.identity.set_numerics_id("x86.1/a");
  facts.vocab = 100;
  facts.model_length = 512;
  return facts;
}

v1::SubmitRequest Good() {
  v1::SubmitRequest submit;
  submit.set_request_id("r");
  submit.set_attempt(1);
  submit.set_phase(v1::SubmitRequest::PHASE_BOTH);
  submit.add_prompt_ids(5);
  submit.add_prompt_ids(99);
  submit.mutable_sampling()->set_max_tokens(8);
  submit.set_seed(42);
  return submit;
}

struct Case {
  const char* name;
  v1::Role role;
  std::function<void(v1::SubmitRequest&)> change;
  absl::StatusCode code;
  const char* text;  // part of the message
};

const Case kCases[] = {
    {"NoId", v1::MIXED, [](auto& s) { s.clear_request_id(); },
     absl::StatusCode::kInvalidArgument, "request_id has 0 bytes"},
    {"NoAttempt", v1::MIXED, [](auto& s) { s.set_attempt(0); },
     absl::StatusCode::kInvalidArgument, "attempt must be at least 1"},
    {"LongSalt", v1::MIXED,
     [](auto& s) { s.set_cache_salt(std::string(257, 'x')); },
     absl::StatusCode::kInvalidArgument, "cache_salt has 257 bytes, limit 256"},
    {"Priority", v1::MIXED, [](auto& s) { s.set_priority(101); },
     absl::StatusCode::kInvalidArgument,
     "priority must be in [-100, 100], got 101"},
    {"EmptyPrompt", v1::MIXED, [](auto& s) { s.clear_prompt_ids(); },
     absl::StatusCode::kInvalidArgument, "prompt must hold at least one token"},
    {"TokenOutside", v1::MIXED, [](auto& s) { s.add_prompt_ids(100); },
     absl::StatusCode::kInvalidArgument,
     "prompt token 100 at 2 is outside [0, 100)"},
    {"Constraint", v1::MIXED,
     [](auto& s) { s.mutable_sampling()->set_regex("a*"); },
     absl::StatusCode::kUnimplemented, "constraint"},
    {"Speculation", v1::MIXED,
     [](auto& s) { s.mutable_speculation()->set_mode(v1::Speculation::ON); },
     absl::StatusCode::kUnimplemented, "speculation.mode"},
    {"Temperature", v1::MIXED,
     [](auto& s) { s.mutable_sampling()->set_temperature(2.5f); },
     absl::StatusCode::kInvalidArgument,
     "temperature must be finite and in [0, 2], got 2.5"},
    {"NoPhase", v1::MIXED,
     [](auto& s) { s.set_phase(v1::SubmitRequest::PHASE_UNSPECIFIED); },
     absl::StatusCode::kInvalidArgument, "phase 0 is not one of"},
    {"PrefillWithoutTicket", v1::PREFILL,
     [](auto& s) { s.set_phase(v1::SubmitRequest::PHASE_PREFILL); },
     absl::StatusCode::kInvalidArgument, "needs a ticket"},
    {"DecodeWithoutSource", v1::DECODE,
     [](auto& s) { s.set_phase(v1::SubmitRequest::PHASE_DECODE); },
     absl::StatusCode::kInvalidArgument, "needs a source"},
    {"BothOnPrefill", v1::PREFILL, [](auto&) {},
     absl::StatusCode::kFailedPrecondition, "does not serve PHASE_BOTH"},
    {"OtherDigest", v1::MIXED,
     [](auto& s) {
       s.mutable_origin()->set_model_digest("digest02");
       s.mutable_origin()->set_numerics_id("x86.1/a");
       s.mutable_origin()->set_allow_numerics_change(true);
     },
     absl::StatusCode::kFailedPrecondition, "cannot continue"},
    {"OtherNumerics", v1::MIXED,
     [](auto& s) {
       s.mutable_origin()->set_model_digest("digest01");
       s.mutable_origin()->set_numerics_id("x86.1/b");
     },
     absl::StatusCode::kFailedPrecondition,
     "numerics x86.1/a cannot continue x86.1/b"},
    {"DeadlineOver", v1::MIXED, [](auto& s) { s.set_deadline_unix_us(1); },
     absl::StatusCode::kDeadlineExceeded, "deadline"},
    {"ReplayOfNoChoice", v1::MIXED,
     [](auto& s) { s.add_replay()->set_choice(3); },
     absl::StatusCode::kInvalidArgument, "replay of choice 3 of 1 choices"},
};

class SubmitCheckTest : public testing::TestWithParam<Case> {};

TEST_P(SubmitCheckTest, RefusesWithTheValue) {
  const Case& c = GetParam();
  FakeClock clock;
  v1::SubmitRequest submit = Good();
  c.change(submit);
  const auto request = CheckSubmit(submit, Facts(c.role), clock);
  EXPECT_EQ(request.status().code(), c.code) << request.status();
  EXPECT_NE(request.status().message().find(c.text), std::string::npos)
      << request.status();
}

INSTANTIATE_TEST_SUITE_P(Cases, SubmitCheckTest, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(SubmitCheck, TurnsAGoodRequestIntoTheEnginesForm) {
  FakeClock clock;
  v1::SubmitRequest submit = Good();
  submit.set_deadline_unix_us(clock.UnixMicros() + 5000);
  const auto request = CheckSubmit(submit, Facts(v1::DECODE), clock);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt, (std::vector<TokenId>{5, 99}));
  EXPECT_EQ(request->sampling.seed, 42u);
  EXPECT_EQ(request->sampling.max_tokens, 8);
  EXPECT_EQ(request->deadline_us, clock.NowMicros() + 5000);
}

TEST(SubmitCheck, AllowedNumericsChangePasses) {
  FakeClock clock;
  v1::SubmitRequest submit = Good();
  submit.mutable_origin()->set_model_digest("digest01");
  submit.mutable_origin()->set_numerics_id("x86.1/b");
  submit.mutable_origin()->set_allow_numerics_change(true);
  EXPECT_TRUE(CheckSubmit(submit, Facts(v1::MIXED), clock).ok());
}

TEST(TokensToMoveTest, CountsWhatAnOpenChoiceAlreadyHas) {
  Request request;
  request.prompt = {1, 2, 3};
  EXPECT_EQ(TokensToMove(request), 3u);
  request.replay = {{4, 5, 6, 7}, {8, 9}};
  request.replay_ended = {true, false};
  EXPECT_EQ(TokensToMove(request), 5u);
  request.replay_ended = {false, false};
  EXPECT_EQ(TokensToMove(request), 7u);
  request.replay_ended = {true, true};
  EXPECT_EQ(TokensToMove(request), 3u);
}

}  // namespace
}  // namespace sluice::worker
