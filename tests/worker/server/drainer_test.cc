#include "worker/server/drainer.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "base/health.h"
#include "gtest/gtest.h"
#include "proto/worker.grpc.pb.h"
#include "worker/server/submit_reactor.h"

namespace sluice::worker {
namespace {

using std::chrono::seconds;

// An engine with nothing to do.
class IdleEngine final : public Engine {
 public:
  void Run() override {}
  void Stop() override {}
  void Submit(Request, std::shared_ptr<TokenSink>) override {}
  void Cancel(RequestKey, absl::Status) override {}
  void SetPaused(RequestKey, bool) override {}
  void StartDraining() override {}
  void RemoteReady(RequestKey, FirstTokens) override {}
  void RemoteFailed(RequestKey, absl::Status, bool) override {}
  void RemoteQuarantined(RequestKey, absl::Status, bool) override {}
  void RemoteReleased(RequestKey) override {}
  void ReleaseHeld(RequestKey) override {}
  void ResetPrefixCache() override {}
  SnapshotRef<EngineStats> stats() const override {
    return std::make_shared<EngineStats>();
  }
};

// Lets every Submit follow one attempt.
class OneAttemptService final : public v1::Worker::CallbackService {
 public:
  explicit OneAttemptService(std::shared_ptr<Attempt> attempt)
      : attempt_(std::move(attempt)) {}
  grpc::ServerWriteReactor<v1::WorkerEvent>* Submit(
      grpc::CallbackServerContext* context, const v1::SubmitRequest*) override {
    auto* reactor = SubmitReactor::Follow(context, attempt_, {});
    followed_.set_value();
    return reactor;
  }
  void AwaitReader() { followed_.get_future().wait(); }

 private:
  const std::shared_ptr<Attempt> attempt_;
  std::promise<void> followed_;
};

// One finished attempt in a table, and a client that has asked for it.
class DrainerTest : public testing::Test {
 protected:
  DrainerTest()
      : table_(SystemClock::Get(), [](RequestKey, absl::Status) {}),
        health_({.reasons = {"starting", "draining", "drained"},
                 .initial = {"starting"},
                 .services = {}}),
        state_(health_),
        drainer_({.engine = &engine_,
                  .requests = &table_,
                  .state = &state_,
                  .open_transfers = [] { return 0u; },
                  .on_change = nullptr,
                  .on_drained = [this] { drained_.set_value(); }}) {
    AttemptInfo info;
    info.request_id = "r";
    info.orphan_ms = 3600'000;
    attempt_ = table_.Enter(info)->attempt;
    service_ = std::make_unique<OneAttemptService>(attempt_);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::Worker::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                            grpc::InsecureChannelCredentials()));
    state_.Set(v1::SERVING, "test");
  }
  ~DrainerTest() override { server_->Shutdown(); }

  // More than fits into the windows of a connection.
  void WriteMuch() {
    TokenRun run;
    run.tokens.assign(8 << 20, 5);
    attempt_->OnTokens(std::move(run));
    attempt_->OnFinished(absl::OkStatus(), {});
  }

  RequestTable table_;
  HealthBoard health_;
  WorkerState state_;
  IdleEngine engine_;
  std::promise<void> drained_;
  std::shared_ptr<Attempt> attempt_;
  std::unique_ptr<OneAttemptService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  Drainer drainer_;
};

TEST_F(DrainerTest, AReaderThatDoesNotReadIsCutAfterTheBudget) {
  grpc::ClientContext context;
  const auto reader = stub_->Submit(&context, v1::SubmitRequest());
  service_->AwaitReader();
  WriteMuch();
  drainer_.Start(50, "test");
  EXPECT_EQ(drained_.get_future().wait_for(seconds(20)),
            std::future_status::ready);
  EXPECT_EQ(table_.size(), 0u);
  context.TryCancel();
}

TEST_F(DrainerTest, AnAttemptNobodyReadsIsDroppedAfterTheBudget) {
  WriteMuch();
  drainer_.Start(50, "test");
  EXPECT_EQ(drained_.get_future().wait_for(seconds(20)),
            std::future_status::ready);
}

TEST_F(DrainerTest, AReaderGetsAllOfItWithinTheBudget) {
  grpc::ClientContext context;
  const auto reader = stub_->Submit(&context, v1::SubmitRequest());
  service_->AwaitReader();
  attempt_->OnTokens({.tokens = {1, 2, 3}});
  attempt_->OnFinished(absl::OkStatus(), {});
  drainer_.Start(3600'000, "test");
  v1::WorkerEvent event;
  int events = 0;
  while (reader->Read(&event)) ++events;
  EXPECT_EQ(events, 3) << "queued, delta, end";
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(drained_.get_future().wait_for(seconds(20)),
            std::future_status::ready);
}

}  // namespace
}  // namespace sluice::worker
