#include "router/server/inference_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/grpc_status.h"
#include "tests/router/testing/fake_worker.h"
#include "tests/router/testing/test_router.h"

namespace sluice::router {
namespace {

TEST(InferenceServiceTest, StreamsThroughAPairOfWorkers) {
  FakeWorker prefill("p0", v1::PREFILL, Answering("hello world"));
  FakeWorker decode("d0", v1::DECODE, Answering("hello world"));
  Link(prefill, decode);
  TestRouter router({&prefill, &decode});
  ASSERT_TRUE(router.WaitReady());

  v1::GenerateRequest request = TextRequest("say it");
  request.set_include_timing(true);
  const Result result = Generate(router, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "hello world");
  EXPECT_EQ(result.ids.at(0).size(), 11u);
  EXPECT_TRUE(result.events.front().has_started());
  EXPECT_EQ(result.started.prompt_tokens(), 6u);
  EXPECT_EQ(result.started.cached_tokens(), 3u);  // of the prefill worker
  EXPECT_EQ(result.started.fingerprint(),
            "sluice-5a5a5a5a-x86.1/0011223344556677");
  EXPECT_EQ(result.ends.at(0).reason(), v1::ChoiceEnd::LENGTH);
  EXPECT_EQ(result.end.completion_tokens(), 11u);
  EXPECT_EQ(result.end.timing().transfer_bytes(), 4096u);
  EXPECT_TRUE(result.events.back().has_end());

  const auto decode_submit = decode.WaitSubmit().request;
  const auto prefill_submit = prefill.WaitSubmit().request;
  EXPECT_EQ(decode_submit.phase(), v1::SubmitRequest::PHASE_DECODE);
  EXPECT_EQ(decode_submit.source(), "p0");
  EXPECT_FALSE(decode_submit.has_ticket());
  EXPECT_EQ(prefill_submit.phase(), v1::SubmitRequest::PHASE_PREFILL);
  EXPECT_EQ(prefill_submit.ticket().transfer_id(), "0123456789abcdef");
  EXPECT_EQ(prefill_submit.seed(), decode_submit.seed());
  EXPECT_NE(prefill_submit.attempt(), decode_submit.attempt());
  EXPECT_TRUE(router.WaitIdle());
  EXPECT_TRUE(decode.cancels().empty());
  EXPECT_EQ(router.Metric("sluice_router_requests_total{surface=\"native\","
                          "model=\"m\",code=\"ok\"}"),
            1);
  EXPECT_EQ(router.Metric("sluice_router_attempts_total{role=\"decode\","
                          "outcome=\"ok\"}"),
            1);
}

struct StopCase {
  const char* name;
  const char* stop;
  bool include_stop;
  uint32_t min_tokens;
  const char* text;
  uint32_t num_tokens;
  v1::ChoiceEnd::Reason reason;
};

class StopStringTest : public testing::TestWithParam<StopCase> {};

// The worker would say "hello world", one byte a token.
TEST_P(StopStringTest, EndsTheChoice) {
  const StopCase& c = GetParam();
  FakeWorker worker("w0", v1::MIXED, Answering("hello world"));
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("x");
  request.mutable_sampling()->add_stop(c.stop);
  request.mutable_sampling()->set_include_stop_str_in_output(c.include_stop);
  request.mutable_sampling()->set_min_tokens(c.min_tokens);
  const Result result = Generate(router, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), c.text);
  EXPECT_EQ(result.ids.at(0).size(), c.num_tokens);
  EXPECT_EQ(result.ends.at(0).reason(), c.reason);
  EXPECT_EQ(result.ends.at(0).positions(), c.num_tokens);
  EXPECT_EQ(result.end.completion_tokens(), c.num_tokens);
  if (c.reason == v1::ChoiceEnd::STOP) {
    EXPECT_EQ(result.ends.at(0).stop_string(), c.stop);
  }
  EXPECT_TRUE(router.WaitIdle());
}

INSTANTIATE_TEST_SUITE_P(
    All, StopStringTest,
    testing::Values(StopCase{"AcrossTokens", "o w", false, 0, "hell", 7,
                             v1::ChoiceEnd::STOP},
                    StopCase{"Included", "o w", true, 0, "hello w", 7,
                             v1::ChoiceEnd::STOP},
                    StopCase{"WithinMinTokensIsIgnored", "ll", false, 4,
                             "hello world", 11, v1::ChoiceEnd::LENGTH},
                    StopCase{"JustAfterMinTokens", "ll", false, 3, "he", 4,
                             v1::ChoiceEnd::STOP},
                    StopCase{"HeldBackButNoMatch", "world!", false, 0,
                             "hello world", 11, v1::ChoiceEnd::LENGTH}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(InferenceServiceTest, StopStringCancelsTheWorker) {
  // A worker that would go on for ever.
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
    submit.stream->Send(DeltaEvent(0, 0, "abc"));
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("x");
  request.mutable_sampling()->add_stop("b");
  const Result result = Generate(router, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "a");
  worker.WaitCancels(1);
  EXPECT_EQ(worker.cancels()[0].request_id(), result.events[0].request_id());
  EXPECT_TRUE(router.WaitIdle());
}

TEST(InferenceServiceTest, ChoicesEndOneByOne) {
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    SubmitStream& stream = *submit.stream;
    stream.Send(AdmittedEvent());
    stream.Send(DeltaEvent(0, 0, "ab"));
    stream.Send(DeltaEvent(1, 0, "xy"));
    stream.Send(DeltaEvent(0, 2, "cd"));  // after the stop: not taken
    stream.Send(DeltaEvent(1, 2, "z"));
    stream.Send(ChoiceEndEvent(0, 4, v1::ChoiceEnd::LENGTH));
    v1::WorkerEvent end = ChoiceEndEvent(1, 3, v1::ChoiceEnd::STOP);
    end.mutable_choice_end()->set_stop_token_id('z');
    stream.Send(end);
    stream.Send(EndEventOf());
    stream.End(grpc::Status::OK);
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("x");
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->add_stop("b");
  request.mutable_sampling()->add_stop_token_ids('z');
  const Result result = Generate(router, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "a");
  EXPECT_EQ(result.text.at(1), "xy");  // a stop token is no text
  EXPECT_EQ(result.ends.at(0).stop_string(), "b");
  EXPECT_EQ(result.ends.at(1).stop_token_id(), uint32_t{'z'});
  EXPECT_EQ(result.end.completion_tokens(), 5u);
}

TEST(InferenceServiceTest, OutputFormsAndFinalOnly) {
  FakeWorker worker("w0", v1::MIXED, Answering("h\xC3\xA9!"));
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  for (v1::OutputForm output : {v1::TOKENS, v1::TEXT, v1::BOTH}) {
    for (bool final_only : {false, true}) {
      v1::GenerateRequest request = TextRequest("x");
      request.set_output(output);
      request.set_final_only(final_only);
      Result result = Generate(router, request);
      ASSERT_TRUE(result.status.ok()) << result.status.error_message();
      EXPECT_EQ(result.text[0], output == v1::TOKENS ? "" : "h\xC3\xA9!");
      EXPECT_EQ(result.ids[0].size(), output == v1::TEXT ? 0u : 4u);
      EXPECT_FALSE(result.end.has_timing());
      const auto deltas =
          std::count_if(result.events.begin(), result.events.end(),
                        [](const auto& e) { return e.has_delta(); });
      // A half code point is no text, so TEXT has one delta less.
      EXPECT_EQ(deltas, final_only ? 1 : output == v1::TEXT ? 3 : 4);
    }
  }
}

TEST(InferenceServiceTest, LostClientCancelsEverywhere) {
  FakeWorker prefill("p0", v1::PREFILL, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
  });
  FakeWorker decode("d0", v1::DECODE, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent(0, true));
  });
  Link(prefill, decode);
  TestRouter router({&prefill, &decode});
  ASSERT_TRUE(router.WaitReady());
  grpc::ClientContext context;
  auto reader = router.stub().Generate(&context, TextRequest("x"));
  prefill.WaitSubmit();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  prefill.WaitCancels(1);
  decode.WaitCancels(1);
  EXPECT_TRUE(router.WaitIdle());
  EXPECT_TRUE(Eventually([&] {
    return router.Metric("sluice_router_cancels_total{cause=\"client\"}") == 1;
  }));
}

TEST(InferenceServiceTest, CancelByRequestId) {
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("x");
  request.set_request_id("my.request-1");
  grpc::ClientContext context;
  auto reader = router.stub().Generate(&context, request);
  worker.WaitSubmit();
  // The same id again while it lives.
  EXPECT_EQ(Generate(router, request).status.error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  v1::CancelRequest cancel;
  v1::CancelResponse response;
  cancel.set_request_id("my.request-1");
  {
    grpc::ClientContext c;
    ASSERT_TRUE(router.stub().Cancel(&c, cancel, &response).ok());
    EXPECT_TRUE(response.found());
  }
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(router.WaitIdle());
  {
    grpc::ClientContext c;
    ASSERT_TRUE(router.stub().Cancel(&c, cancel, &response).ok());
    EXPECT_FALSE(response.found());
  }
}

TEST(InferenceServiceTest, GrpcDeadlineEndsTheRequest) {
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  grpc::ClientContext context;
  // The header's limit is the smaller one, so the router's word arrives.
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(30));
  context.AddMetadata("x-sluice-deadline-ms", "150");
  auto reader = router.stub().Generate(&context, TextRequest("x"));
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(context.GetServerTrailingMetadata()
                .find("grpc-retry-pushback-ms")
                ->second,
            "-1");
  worker.WaitCancels(1);
  EXPECT_TRUE(router.WaitIdle());
}

struct BadCase {
  const char* name;
  void (*change)(v1::GenerateRequest&);
  grpc::StatusCode code;
  const char* message;
};

class BadRequestTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadRequestTest, IsRefused) {
  FakeWorker worker("w0", v1::MIXED, Answering("a"));
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("x");
  GetParam().change(request);
  const Result result = Generate(router, request);
  EXPECT_EQ(result.status.error_code(), GetParam().code);
  if (GetParam().message != nullptr) {
    EXPECT_EQ(result.status.error_message(), GetParam().message);
  }
  EXPECT_TRUE(result.events.empty());
  EXPECT_TRUE(worker.submits().empty());
  EXPECT_TRUE(router.WaitIdle());
}

constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
constexpr auto kUnimplemented = grpc::StatusCode::UNIMPLEMENTED;

INSTANTIATE_TEST_SUITE_P(
    All, BadRequestTest,
    testing::Values(
        BadCase{"Model", [](auto& r) { r.set_model("nosuch"); },
                grpc::StatusCode::NOT_FOUND, "model `nosuch` does not exist"},
        BadCase{"Id", [](auto& r) { r.set_request_id("a b"); }, kInvalid,
                "request_id must be 1..128 of [A-Za-z0-9._-]"},
        BadCase{"NoInput", [](auto& r) { r.clear_input(); }, kInvalid,
                "one of tokens, text and chat must be given"},
        BadCase{"EmptyPrompt", [](auto& r) { r.set_text(""); }, kInvalid,
                "prompt must hold at least one token"},
        BadCase{"Token", [](auto& r) { r.mutable_tokens()->add_ids(5000); },
                kInvalid, "prompt token 5000 is outside [0, 259)"},
        BadCase{"Temperature",
                [](auto& r) { r.mutable_sampling()->set_temperature(3); },
                kInvalid, "temperature must be finite and in [0, 2], got 3"},
        BadCase{"Salt",
                [](auto& r) { r.set_cache_salt(std::string(300, 's')); },
                kInvalid, "cache_salt has 300 bytes, limit 256"},
        BadCase{"Priority", [](auto& r) { r.set_priority(101); }, kInvalid,
                "priority must be in [-100, 100], got 101"},
        BadCase{"Context",
                [](auto& r) { r.mutable_sampling()->set_max_tokens(1000); },
                kInvalid,
                "the model's context is 1000 tokens, but the prompt has 1 "
                "and 1000 more are asked for"},
        BadCase{"LongPrompt",
                [](auto& r) {
                  r.set_text(std::string(1000, 'x'));
                  r.mutable_sampling()->clear_max_tokens();
                },
                kInvalid,
                "the model's context is 1000 tokens, but the prompt has "
                "1000 and 1 more are asked for"},
        BadCase{"Constraint",
                [](auto& r) { r.mutable_sampling()->set_regex("a"); },
                kUnimplemented, nullptr},
        BadCase{"Resume",
                [](auto& r) { r.mutable_resume()->set_enabled(true); },
                kUnimplemented, "resume.enabled is not supported"},
        BadCase{"Speculation",
                [](auto& r) {
                  r.mutable_speculation()->set_mode(v1::Speculation::ON);
                },
                kUnimplemented, "speculation.mode is not supported"},
        BadCase{"ChatJson",
                [](auto& r) { r.mutable_chat()->set_messages_json("[]"); },
                kInvalid, "messages must be a non-empty list"},
        BadCase{"Placement",
                [](auto& r) {
                  r.mutable_routing()->set_placement(
                      v1::RoutingHints::DISAGGREGATED);
                },
                grpc::StatusCode::UNAVAILABLE, "no worker for this request"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(InferenceServiceTest, TokenizeDetokenizeAndList) {
  FakeWorker worker("w0", v1::MIXED, Answering("a"));
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi<|end|>");
  tokenize.set_with_strings(true);
  v1::TokenizeResponse ids;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(router.stub().Tokenize(&context, tokenize, &ids).ok());
  }
  EXPECT_EQ(std::vector<uint32_t>(ids.ids().begin(), ids.ids().end()),
            (std::vector<uint32_t>{'h', 'i', kByteEos}));
  EXPECT_EQ(ids.strings(1), "i");
  EXPECT_EQ(ids.max_context(), 1000u);
  tokenize.mutable_chat()->set_messages_json(
      R"([{"role":"user","content":[{"type":"text","text":"a"},
          {"type":"text","text":"b"}]}])");
  {
    grpc::ClientContext context;
    ASSERT_TRUE(router.stub().Tokenize(&context, tokenize, &ids).ok());
  }
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_ids() = ids.ids();
  v1::DetokenizeResponse text;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(router.stub().Detokenize(&context, detokenize, &text).ok());
  }
  EXPECT_EQ(text.text(), "<user>ab<assistant>");
  detokenize.add_ids(9999);
  {
    grpc::ClientContext context;
    EXPECT_EQ(
        router.stub().Detokenize(&context, detokenize, &text).error_code(),
        kInvalid);
  }
  v1::ListModelsResponse models;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(router.stub().ListModels(&context, {}, &models).ok());
  }
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "m");
  EXPECT_TRUE(models.models(0).ready());
}

TEST(InferenceServiceTest, ChatReachesTheWorkerAsTokens) {
  FakeWorker worker("w0", v1::MIXED, Answering("a"));
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("");
  request.mutable_chat()->set_messages_json(
      R"([{"role":"user","content":"hey"}])");
  request.mutable_sampling()->set_seed(-1);
  request.set_priority(-7);
  ASSERT_TRUE(Generate(router, request).status.ok());
  const v1::SubmitRequest submit = worker.WaitSubmit().request;
  std::string prompt;
  for (uint32_t id : submit.prompt_ids()) {
    prompt.push_back(static_cast<char>(id));
  }
  EXPECT_EQ(prompt, "<user>hey<assistant>");
  EXPECT_EQ(submit.phase(), v1::SubmitRequest::PHASE_BOTH);
  EXPECT_EQ(submit.seed(), ~uint64_t{0});
  EXPECT_EQ(submit.priority(), -7);
  EXPECT_EQ(submit.sampling().max_tokens(), 50u);
  EXPECT_GT(submit.deadline_unix_us(), 0u);
  EXPECT_EQ(submit.router_id(), "r1");
}

}  // namespace
}  // namespace sluice::router
