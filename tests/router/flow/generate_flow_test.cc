#include "router/flow/generate_flow.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/mutex.h"
#include "router/flow/request_router.h"
#include "tests/router/testing/fake_worker.h"
#include "tests/router/testing/test_router.h"

namespace sluice::router {
namespace {

// Remembers everything, and acknowledges only when asked to.
class Recorder final : public FlowListener {
 public:
  explicit Recorder(bool acknowledge = true) : acknowledge_(acknowledge) {}

  void OnStarted(const StartedEvent& event) override {
    MutexLock lock(mu_);
    ++started_;
    log_ += "S";
    prompt_logprobs_ = event.started.prompt_logprobs().positions_size();
  }
  void OnDelta(v1::TokenDelta delta) override {
    {
      MutexLock lock(mu_);
      ++deltas_;
      log_ += "d";
      text_ += delta.text();
    }
    if (acknowledge_) flow->Acknowledge(1);
  }
  void OnChoiceEnd(const v1::ChoiceEnd&) override {
    MutexLock lock(mu_);
    log_ += "c";
  }
  void OnEnd(const EndEvent& end) override {
    MutexLock lock(mu_);
    log_ += "E";
    end_ = end;
  }

  bool WaitEnd() {
    return Eventually([&] {
      MutexLock lock(mu_);
      return end_.has_value();
    });
  }
  size_t deltas() {
    MutexLock lock(mu_);
    return deltas_;
  }
  std::string log() {
    MutexLock lock(mu_);
    return log_;
  }
  std::string text() {
    MutexLock lock(mu_);
    return text_;
  }
  EndEvent end() {
    MutexLock lock(mu_);
    return *end_;
  }
  int prompt_logprobs() {
    MutexLock lock(mu_);
    return prompt_logprobs_;
  }

  std::shared_ptr<Flow> flow;

 private:
  const bool acknowledge_;
  Mutex mu_;
  int started_ ABSL_GUARDED_BY(mu_) = 0;
  int prompt_logprobs_ ABSL_GUARDED_BY(mu_) = 0;
  size_t deltas_ ABSL_GUARDED_BY(mu_) = 0;
  std::string log_ ABSL_GUARDED_BY(mu_);
  std::string text_ ABSL_GUARDED_BY(mu_);
  std::optional<EndEvent> end_ ABSL_GUARDED_BY(mu_);
};

std::shared_ptr<Recorder> StartFlow(TestRouter& router,
                                    const v1::GenerateRequest& request,
                                    bool acknowledge = true) {
  auto recorder = std::make_shared<Recorder>(acknowledge);
  GenerateCall call;
  call.request = request;
  recorder->flow = router.router().NewFlow(std::move(call), recorder);
  recorder->flow->Start();
  return recorder;
}

void Admit(const FakeDispatch& submit) {
  submit.stream->Send(AdmittedEvent(
      0, submit.request.phase() == v1::SubmitRequest::PHASE_DECODE));
}

TEST(GenerateFlowTest, TokensBeforeThePrefillWordWait) {
  FakeWorker prefill("p0", v1::PREFILL);
  FakeWorker decode("d0", v1::DECODE, Admit);
  Link(prefill, decode);
  TestRouter router({&prefill, &decode});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("abc");
  request.mutable_sampling()->set_prompt_logprobs(0);
  auto recorder = StartFlow(router, request);
  auto d = decode.WaitSubmit().stream;
  auto p = prefill.WaitSubmit().stream;
  d->Send(DeltaEvent(0, 0, "x"));
  d->Send(ChoiceEndEvent(0, 1, v1::ChoiceEnd::LENGTH));
  d->Send(EndEventOf(7));
  d->End(grpc::Status::OK);
  ASSERT_TRUE(Eventually([&] { return d->num_written() >= 2; }));
  p->Send(AdmittedEvent(2));
  EXPECT_EQ(recorder->log(), "");
  v1::WorkerEvent logprobs;
  logprobs.mutable_prompt_logprobs()->add_positions();
  logprobs.mutable_prompt_logprobs()->add_positions();
  p->Send(logprobs);
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_EQ(recorder->log(), "SdcE");
  EXPECT_EQ(recorder->prompt_logprobs(), 2);
  EXPECT_EQ(recorder->end().usage.cached_tokens(), 2u);
  EXPECT_EQ(recorder->end().usage.timing().transfer_bytes(), 7u);
  p->End(grpc::Status::OK);
  EXPECT_TRUE(router.WaitIdle());
}

class WorkerDeathTest : public testing::TestWithParam<bool> {};

TEST_P(WorkerDeathTest, EndsUnavailableOnce) {
  const bool kill_decode = GetParam();
  FakeWorker prefill("p0", v1::PREFILL, Admit);
  FakeWorker decode("d0", v1::DECODE, Admit);
  Link(prefill, decode);
  TestRouter router({&prefill, &decode});
  ASSERT_TRUE(router.WaitReady());
  auto recorder = StartFlow(router, TextRequest("abc"));
  auto d = decode.WaitSubmit().stream;
  prefill.WaitSubmit();
  if (kill_decode) {
    d->Send(DeltaEvent(0, 0, "x"));
    ASSERT_TRUE(Eventually([&] { return recorder->deltas() == 1; }));
  } else {
    ASSERT_TRUE(Eventually([&] { return recorder->log() == "S"; }));
  }
  (kill_decode ? decode : prefill).Kill();
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_EQ(recorder->log(), kill_decode ? "SdE" : "SE");
  const absl::Status status = recorder->end().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(),
            kill_decode ? "worker d0 was lost" : "worker p0 was lost");
  EXPECT_EQ(ReasonOf(status), "WORKER_LOST");
  EXPECT_TRUE(RetryDelayMs(status).has_value());
  (kill_decode ? prefill : decode).WaitCancels(1);
  EXPECT_TRUE(router.WaitIdle());
  if (kill_decode) {
    EXPECT_TRUE(
        Eventually([&] { return !router.router().GetReadiness().ready(); }));
    return;
  }
  // The next request does without.
  ASSERT_TRUE(Eventually([&] {
    const auto view = router.router().view();
    return view->Find("p0")->phase == WorkerPhase::kLost;
  }));
  auto next = StartFlow(router, TextRequest("abc"));
  EXPECT_EQ(decode.WaitSubmit(2).request.phase(),
            v1::SubmitRequest::PHASE_BOTH);
}

INSTANTIATE_TEST_SUITE_P(Roles, WorkerDeathTest, testing::Bool());

TEST(GenerateFlowTest, DeadPrefillAfterTheFirstTokenDoesNotMatter) {
  FakeWorker prefill("p0", v1::PREFILL, Admit);
  FakeWorker decode("d0", v1::DECODE, Admit);
  Link(prefill, decode);
  TestRouter router({&prefill, &decode});
  ASSERT_TRUE(router.WaitReady());
  auto recorder = StartFlow(router, TextRequest("abc"));
  auto d = decode.WaitSubmit().stream;
  prefill.WaitSubmit();
  d->Send(DeltaEvent(0, 0, "x"));
  ASSERT_TRUE(Eventually([&] { return recorder->deltas() == 1; }));
  prefill.Kill();
  d->Send(DeltaEvent(0, 1, "y"));
  d->Send(ChoiceEndEvent(0, 2, v1::ChoiceEnd::STOP));
  d->Send(EndEventOf());
  d->End(grpc::Status::OK);
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_TRUE(recorder->end().status.ok());
  EXPECT_EQ(recorder->text(), "xy");
}

TEST(GenerateFlowTest, RefusedAttemptGoesElsewhere) {
  const auto refuse = [](const FakeDispatch& submit) {
    submit.stream->End(ToGrpcStatus(
        WithReason(absl::UnavailableError("draining"), "DRAINING")));
  };
  FakeWorker bad("w0", v1::MIXED, refuse);
  FakeWorker good("w1", v1::MIXED, Answering("ok"));
  // The bad one looks better.
  good.Report([](v1::WorkerReport& r) {
    r.mutable_load()->set_waiting_tokens(1'000'000);
  });
  TestRouter router({&bad, &good});
  ASSERT_TRUE(Eventually([&] {
    const auto view = router.router().view();
    return view->workers.size() == 2 && view->workers[0].Usable() &&
           view->workers[1].Usable();
  }));
  auto recorder = StartFlow(router, TextRequest("abc"));
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_TRUE(recorder->end().status.ok()) << recorder->end().status;
  EXPECT_EQ(recorder->text(), "ok");
  EXPECT_EQ(bad.submits().size(), 1u);
  EXPECT_EQ(good.WaitSubmit().request.attempt(), 2u);
  EXPECT_TRUE(router.WaitIdle());
}

TEST(GenerateFlowTest, FullWorkerIsTriedAgainAndThenSaysSo) {
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->End(
        ToGrpcStatus(absl::ResourceExhaustedError("queue full")));
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  auto recorder = StartFlow(router, TextRequest("abc"));
  ASSERT_TRUE(recorder->WaitEnd());
  const absl::Status status = recorder->end().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(RetryDelayMs(status).has_value());
  EXPECT_EQ(worker.submits().size(), 4u);
  EXPECT_TRUE(router.WaitIdle());
}

class BrokenWorkerTest : public testing::TestWithParam<int> {};

TEST_P(BrokenWorkerTest, IsAnInternalError) {
  v1::WorkerEvent uneven = DeltaEvent(0, 0, "ab");
  uneven.mutable_delta()->mutable_logprobs()->add_positions();
  const std::vector<v1::WorkerEvent> events = {
      DeltaEvent(1, 0, "x"),                        // no such choice
      DeltaEvent(0, 1, "x"),                        // a gap
      ChoiceEndEvent(0, 3, v1::ChoiceEnd::LENGTH),  // tokens are missing
      ChoiceEndEvent(9, 0, v1::ChoiceEnd::LENGTH),  // no such choice
      uneven};
  FakeWorker worker("w0", v1::MIXED, Admit);
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  auto recorder = StartFlow(router, TextRequest("abc"));
  worker.WaitSubmit().stream->Send(events[static_cast<size_t>(GetParam())]);
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_EQ(recorder->end().status.code(), absl::StatusCode::kInternal);
  worker.WaitCancels(1);
  EXPECT_TRUE(router.WaitIdle());
}

INSTANTIATE_TEST_SUITE_P(All, BrokenWorkerTest, testing::Range(0, 5));

TEST(GenerateFlowTest, EarlyEndIsAnInternalError) {
  FakeWorker worker("w0", v1::MIXED, Admit);
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  auto recorder = StartFlow(router, TextRequest("abc"));
  worker.WaitSubmit().stream->End(grpc::Status::OK);
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_EQ(recorder->end().status.code(), absl::StatusCode::kInternal);
}

TEST(GenerateFlowTest, UnknownAndRepeatedEventsAreHarmless) {
  FakeWorker worker("w0", v1::MIXED, Admit);
  worker.Report([](v1::WorkerReport& report) {
    report.GetReflection()->MutableUnknownFields(&report)->AddVarint(99, 1);
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  EXPECT_GE(router.Metric("sluice_router_unknown_fields_total{message="
                          "\"WorkerReport\"}"),
            1);
  auto recorder = StartFlow(router, TextRequest("abc"));
  auto stream = worker.WaitSubmit().stream;
  v1::WorkerEvent unknown;
  unknown.GetReflection()->MutableUnknownFields(&unknown)->AddVarint(99, 1);
  stream->Send(unknown);
  stream->Send(DeltaEvent(0, 0, "ab"));
  stream->Send(DeltaEvent(0, 0, "ab"));  // a replay
  stream->Send(DeltaEvent(0, 1, "bc"));  // half a replay
  stream->Send(ChoiceEndEvent(0, 3, v1::ChoiceEnd::STOP));
  stream->Send(EndEventOf());
  stream->End(grpc::Status::OK);
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_EQ(recorder->log(), "SddcE");
  EXPECT_EQ(recorder->text(), "abc");
  EXPECT_EQ(router.Metric(
                "sluice_router_unknown_fields_total{message=\"WorkerEvent\"}"),
            1);
}

TEST(GenerateFlowTest, SlowReaderStopsItsWorkerOnly) {
  constexpr size_t kBound = 8;
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
    for (uint32_t i = 0; i < 50; ++i) {
      submit.stream->Send(DeltaEvent(0, i, "x"));
    }
    submit.stream->Send(ChoiceEndEvent(0, 50, v1::ChoiceEnd::LENGTH));
    submit.stream->Send(EndEventOf());
    submit.stream->End(grpc::Status::OK);
  });
  TestRouterOptions options;
  options.limits.max_buffered_deltas = kBound;
  TestRouter router({&worker}, options);
  ASSERT_TRUE(router.WaitReady());
  auto slow = StartFlow(router, TextRequest("abc"), /*acknowledge=*/false);
  ASSERT_TRUE(Eventually([&] { return slow->deltas() == kBound; }));
  auto fast = StartFlow(router, TextRequest("abc"));
  ASSERT_TRUE(fast->WaitEnd());
  EXPECT_EQ(fast->deltas(), 50u);
  EXPECT_EQ(slow->deltas(), kBound);  // nothing came meanwhile
  EXPECT_EQ(router.Metric("sluice_router_slow_readers"), 1);
  slow->flow->Acknowledge(5);
  ASSERT_TRUE(Eventually([&] { return slow->deltas() == kBound + 5; }));
  slow->flow->Acknowledge(1000);
  ASSERT_TRUE(Eventually([&] { return slow->deltas() >= 2 * kBound; }));
  slow->flow->Cancel(CancelCause::kClient);
  ASSERT_TRUE(slow->WaitEnd());
  EXPECT_TRUE(router.WaitIdle());
  EXPECT_EQ(router.Metric("sluice_router_slow_readers"), 0);
  EXPECT_EQ(router.Metric("sluice_router_stream_buffer_bytes"), 0);
  EXPECT_EQ(router.Metric("sluice_router_replay_log_bytes"), 0);
}

TEST(GenerateFlowTest, ReaderWithoutProgressIsEnded) {
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
    submit.stream->Send(DeltaEvent(0, 0, "x"));
  });
  TestRouterOptions options;
  options.limits.stall_timeout_ms = 100;
  TestRouter router({&worker}, options);
  ASSERT_TRUE(router.WaitReady());
  auto slow = StartFlow(router, TextRequest("abc"), /*acknowledge=*/false);
  ASSERT_TRUE(slow->WaitEnd());
  EXPECT_EQ(slow->end().status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(slow->end().status), "SLOW_READER");
  worker.WaitCancels(1);
  EXPECT_TRUE(router.WaitIdle());
}

TEST(GenerateFlowTest, TtftDeadline) {
  FakeWorker worker("w0", v1::MIXED, Admit);
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("abc");
  request.set_ttft_deadline_ms(80);
  auto late = StartFlow(router, request);
  ASSERT_TRUE(late->WaitEnd());
  EXPECT_EQ(late->end().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(late->end().status.message(), "no token before ttft_deadline_ms");
  EXPECT_TRUE(router.WaitIdle());
}

TEST(GenerateFlowTest, QueueIsBoundedAndMovesWithReports) {
  FakeWorker worker("w0", v1::MIXED, Answering("ok"));
  const auto slots = [&](uint32_t n) {
    worker.Report([n](v1::WorkerReport& r) {
      r.mutable_load()->set_running_seqs(1);
      r.mutable_credits()->set_sequence_slots(n);
      r.mutable_credits()->set_admissible_blocks(1000);
      r.mutable_credits()->set_prefill_tokens(1000);
    });
  };
  slots(0);
  TestRouterOptions options;
  options.queue.max_requests = 2;
  TestRouter router({&worker}, options);
  ASSERT_TRUE(router.WaitReady());
  auto first = StartFlow(router, TextRequest("a"));
  v1::GenerateRequest urgent_request = TextRequest("b");
  urgent_request.set_priority(-5);
  auto urgent = StartFlow(router, urgent_request);
  auto refused = StartFlow(router, TextRequest("c"));
  ASSERT_TRUE(refused->WaitEnd());
  const absl::Status status = refused->end().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_GE(RetryDelayMs(status).value_or(0), 50);
  EXPECT_EQ(router.Metric("sluice_router_rejections_total{model=\"m\","
                          "reason=\"queue_full\"}"),
            1);
  EXPECT_EQ(first->log(), "");
  slots(1);
  ASSERT_TRUE(urgent->WaitEnd());
  EXPECT_TRUE(urgent->end().status.ok());
  EXPECT_EQ(first->log(), "");
  first->flow->Cancel(CancelCause::kClient);  // while it waits
  ASSERT_TRUE(first->WaitEnd());
  slots(1);
  EXPECT_EQ(worker.submits().size(), 1u);
  EXPECT_TRUE(
      Eventually([&] { return router.router().num_live_flows() == 0; }));
  for (const auto& stats : router.router().admission().Stats()) {
    EXPECT_EQ(stats.requests, 0u);
    EXPECT_EQ(stats.bytes, 0u);
  }
}

TEST(GenerateFlowTest, SilentWorkerIsGivenUp) {
  FakeWorker worker("w0", v1::MIXED, Admit);
  TestRouterOptions options;
  options.silent_ms = 1500;
  options.lost_ms = 2500;
  TestRouter router({&worker}, options);
  ASSERT_TRUE(router.WaitReady());
  auto recorder = StartFlow(router, TextRequest("abc"));
  worker.WaitSubmit();
  ASSERT_TRUE(recorder->WaitEnd());  // no report, no token
  EXPECT_EQ(recorder->end().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(router.Metric("sluice_router_attempts_total{role=\"mixed\","
                          "outcome=\"silent\"}"),
            1);
  EXPECT_FALSE(router.router().GetReadiness().ready());
  // It speaks again.
  worker.Report([](v1::WorkerReport&) {});
  EXPECT_TRUE(router.WaitReady());
}

TEST(GenerateFlowTest, DrainRefusesAndStopEnds) {
  FakeWorker worker("w0", v1::MIXED, Admit);
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  auto running = StartFlow(router, TextRequest("abc"));
  worker.WaitSubmit();
  router.router().StartDrain();
  auto refused = StartFlow(router, TextRequest("abc"));
  ASSERT_TRUE(refused->WaitEnd());
  EXPECT_EQ(ReasonOf(refused->end().status), "DRAINING");
  EXPECT_FALSE(router.router().WaitIdle(10));
  EXPECT_FALSE(running->log().ends_with("E"));
  router.router().Stop();
  ASSERT_TRUE(running->WaitEnd());
  EXPECT_EQ(running->end().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(router.router().num_live_flows(), 0u);
}

TEST(GenerateFlowTest, TooManyInFlight) {
  FakeWorker worker("w0", v1::MIXED, Admit);
  TestRouterOptions options;
  options.max_inflight = 1;
  TestRouter router({&worker}, options);
  ASSERT_TRUE(router.WaitReady());
  auto running = StartFlow(router, TextRequest("abc"));
  auto refused = StartFlow(router, TextRequest("abc"));
  ASSERT_TRUE(refused->WaitEnd());
  EXPECT_EQ(refused->end().status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(RetryDelayMs(refused->end().status).has_value());
}

TEST(GenerateFlowTest, ManyFlowsWithCancelsLeaveNothing) {
  FakeWorker prefill("p0", v1::PREFILL, Answering("hello"));
  FakeWorker decode("d0", v1::DECODE, Answering("hello"));
  Link(prefill, decode);
  TestRouter router({&prefill, &decode});
  ASSERT_TRUE(router.WaitReady());
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (int i = 0; i < 300; ++i) {
    recorders.push_back(StartFlow(router, TextRequest("abc")));
    if (i % 3 == 0) recorders.back()->flow->Cancel(CancelCause::kClient);
  }
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->WaitEnd());
    const absl::StatusCode code = recorder->end().status.code();
    EXPECT_TRUE(code == absl::StatusCode::kOk ||
                code == absl::StatusCode::kCancelled);
    const std::string log = recorder->log();
    EXPECT_EQ(std::count(log.begin(), log.end(), 'E'), 1);
    if (code == absl::StatusCode::kOk) {
      EXPECT_EQ(recorder->text(), "hello");
    }
  }
  EXPECT_TRUE(router.WaitIdle());
  for (const char* phase : {"queue", "prefill", "transfer", "decode"}) {
    const std::string series = absl::StrCat(
        "sluice_router_inflight_requests{model=\"m\",phase=\"", phase, "\"}");
    EXPECT_LE(router.Metric(series), 0) << series;
  }
  EXPECT_EQ(router.Metric("sluice_router_stream_buffer_bytes"), 0);
}

TEST(GenerateFlowTest, AWorkerThatFailsIsLeftOut) {
  FakeWorker bad("bad", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
    submit.stream->End(grpc::Status(grpc::StatusCode::INTERNAL, "broken"));
  });
  FakeWorker good("good", v1::MIXED, Answering("x"));
  TestRouter router({&bad, &good});
  ASSERT_TRUE(router.WaitReady());
  v1::GenerateRequest request = TextRequest("abc");
  request.mutable_routing()->set_pin_instance("bad");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Generate(router, request).status.error_code(),
              grpc::StatusCode::INTERNAL);
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Generate(router, TextRequest("abc")).status.ok());
  }
  EXPECT_EQ(bad.submits().size(), 3u);
}

// A decode worker alone serves, but that is not what ready means.
TEST(GenerateFlowTest, ADecodeWorkerAloneIsNotReady) {
  FakeWorker decode("d0", v1::DECODE, Answering("x"));
  TestRouter router({&decode});
  ASSERT_TRUE(Eventually([&] {
    const auto view = router.router().view();
    return view->workers.size() == 1 && view->workers[0].served != nullptr;
  }));
  EXPECT_EQ(router.router().GetReadiness().reasons,
            std::vector<std::string>{"no_path"});
  EXPECT_FALSE(router.router().ListModels()[0].ready);
  EXPECT_TRUE(Generate(router, TextRequest("abc")).status.ok());
  FakeWorker prefill("p0", v1::PREFILL);
  FakeWorker paired("d1", v1::DECODE);
  TestRouter pair({&prefill, &paired});
  ASSERT_TRUE(Eventually([&] {
    const auto view = pair.router().view();
    return view->models.size() == 1;
  }));
  EXPECT_FALSE(pair.router().GetReadiness().ready());
  Link(prefill, paired);
  EXPECT_TRUE(pair.WaitReady());
}

TEST(GenerateFlowTest, AGatheredAnswerIsBounded) {
  FakeWorker worker("w0", v1::MIXED, [](const FakeDispatch& submit) {
    submit.stream->Send(AdmittedEvent());
    for (uint32_t i = 0; i < 30; ++i) {
      submit.stream->Send(DeltaEvent(0, i, "a"));
    }
  });
  TestRouter router({&worker});
  ASSERT_TRUE(router.WaitReady());
  auto recorder = std::make_shared<Recorder>();
  GenerateCall call;
  call.request = TextRequest("abc");
  call.max_answer_bytes = 100;  // 20 tokens of one byte and a 4-byte id
  recorder->flow = router.router().NewFlow(std::move(call), recorder);
  recorder->flow->Start();
  ASSERT_TRUE(recorder->WaitEnd());
  EXPECT_EQ(recorder->deltas(), 20u);
  const absl::Status status = recorder->end().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "ANSWER_TOO_LARGE");
  EXPECT_FALSE(RetryDelayMs(status).has_value());
  worker.WaitCancels(1);
  EXPECT_TRUE(router.WaitIdle());
}

}  // namespace
}  // namespace sluice::router
