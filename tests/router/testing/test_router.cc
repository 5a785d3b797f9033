#include "tests/router/testing/test_router.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "router/route/policy.h"

namespace sluice::router {

TestRouter::TestRouter(const std::vector<FakeWorker*>& workers,
                       const TestRouterOptions& test_options)
    : num_workers_(workers.size()) {
  RouterOptions options;
  for (FakeWorker* worker : workers) {
    options.registry.fixed.push_back(worker->address());
  }
  options.registry.router_id = "r1";
  options.registry.silent_ms = test_options.silent_ms;
  options.registry.lost_ms = test_options.lost_ms;
  options.policy = *MakeRoutePolicy("", {});
  options.queue = test_options.queue;
  options.limits = test_options.limits;
  options.max_inflight = test_options.max_inflight;
  options.metrics = &metrics_;
  router_ = std::make_unique<RequestRouter>(std::move(options));
  router_->Start();
  service_ = std::make_unique<InferenceService>(
      *router_, std::function<void(absl::string_view)>(), &compute_);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  SLUICE_CHECK(server_ != nullptr);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  stub_ = v1::Inference::NewStub(
      grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                grpc::InsecureChannelCredentials(), arguments));
}

TestRouter::~TestRouter() {
  router_->Stop();
  server_->Shutdown(std::chrono::system_clock::now());
}

bool TestRouter::WaitReady() {
  // Ready comes with the first admissible path; tests count on every worker.
  return Eventually([&] {
    const auto view = router_->view();
    return router_->GetReadiness().ready() &&
           view->workers.size() == num_workers_ &&
           std::all_of(view->workers.begin(), view->workers.end(),
                       [](const WorkerView& w) { return w.served != nullptr; });
  });
}

bool TestRouter::WaitIdle() {
  return Eventually([&] {
    return router_->num_live_flows() == 0 &&
           router_->admission().num_spends() == 0;
  });
}

double TestRouter::Metric(const std::string& series) {
  const std::string text = metrics_.TextExposition();
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double value = 0;
    if (absl::ConsumePrefix(&line, series + " ") &&
        absl::SimpleAtod(line, &value)) {
      return value;
    }
  }
  return -1;
}

void Link(FakeWorker& a, FakeWorker& b) {
  const auto add = [](FakeWorker& to, const FakeWorker& peer) {
    const v1::Identity identity = peer.report().identity();
    to.Report([&](v1::WorkerReport& report) {
      v1::PeerLink& link = *report.add_links();
      link.set_instance(identity.instance());
      link.set_generation(identity.generation());
      link.set_state(v1::PeerLink::UP);
    });
  };
  add(a, b);
  add(b, a);
}

Result Generate(TestRouter& router, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  auto reader = router.stub().Generate(&context, request);
  Result result;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    result.events.push_back(event);
    if (event.has_started()) result.started = event.started();
    if (event.has_end()) result.end = event.end();
    if (event.has_choice_end()) {
      result.ends[event.choice_end().choice()] = event.choice_end();
    }
    if (event.has_delta()) {
      const v1::TokenDelta& delta = event.delta();
      result.text[delta.choice()] += delta.text();
      auto& ids = result.ids[delta.choice()];
      ids.insert(ids.end(), delta.token_ids().begin(), delta.token_ids().end());
    }
  }
  result.status = reader->Finish();
  return result;
}

v1::GenerateRequest TextRequest(const std::string& text) {
  v1::GenerateRequest request;
  request.set_model("m");
  request.set_text(text);
  request.set_output(v1::BOTH);
  request.mutable_sampling()->set_max_tokens(50);
  return request;
}

}  // namespace sluice::router
