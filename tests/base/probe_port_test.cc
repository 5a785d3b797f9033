#include "base/probe_port.h"

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "base/admin_http.h"
#include "base/health.grpc.pb.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class ProbePortTest : public ::testing::Test {
 protected:
  ProbePortTest()
      : board_({.reasons = {"starting", "draining"},
                .initial = {"starting"},
                .services = {"a.B"},
                .clock = &clock_}) {
    auto port = ProbePort::Start("127.0.0.1:0", board_);
    EXPECT_TRUE(port.ok()) << port.status();
    port_ = *std::move(port);
    channel_ = grpc::CreateChannel(port_->address(),
                                   grpc::InsecureChannelCredentials());
    stub_ = Health::NewStub(channel_);
  }

  static void SetDeadline(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(20));
  }
  HealthCheckResponse::ServingStatus Check(const std::string& service) {
    grpc::ClientContext context;
    SetDeadline(context);
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    last_ = stub_->Check(&context, request, &response);
    return response.status();
  }
  int Get(const std::string& path) {
    const auto status = HttpGetStatus(port_->address(), path, 20'000);
    EXPECT_TRUE(status.ok()) << status.status();
    return status.ok() ? *status : 0;
  }

  FakeClock clock_;
  HealthBoard board_;
  std::unique_ptr<ProbePort> port_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Health::Stub> stub_;
  grpc::Status last_;
};

TEST_F(ProbePortTest, BothProtocolsTellTheTruth) {
  Heartbeat& beat = board_.AddHeartbeat("engine", 5000);
  EXPECT_EQ(Check(""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("a.B"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("live"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Get("/readyz"), 503);
  EXPECT_EQ(Get("/livez"), 200);
  board_.SetReason("starting", false);
  for (const char* name : {"", "ready", "live", "a.B"}) {
    EXPECT_EQ(Check(name), HealthCheckResponse::SERVING) << name;
    EXPECT_TRUE(last_.ok()) << last_.error_message();
  }
  EXPECT_EQ(Get("/readyz"), 200);
  clock_.AdvanceMs(5001);
  EXPECT_EQ(Check("live"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("ready"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Get("/livez"), 503);
  beat.Tick();
  EXPECT_EQ(Get("/livez"), 200);
  Check("no.Such");
  EXPECT_EQ(last_.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Get("/metrics"), 404);
}

TEST_F(ProbePortTest, List) {
  grpc::ClientContext context;
  SetDeadline(context);
  grpc::health::v1::HealthListResponse response;
  ASSERT_TRUE(stub_->List(&context, {}, &response).ok());
  EXPECT_EQ(response.statuses().size(), 4);
  EXPECT_EQ(response.statuses().at("live").status(),
            HealthCheckResponse::SERVING);
  EXPECT_EQ(response.statuses().at("").status(),
            HealthCheckResponse::NOT_SERVING);
}

TEST_F(ProbePortTest, WatchSendsChanges) {
  board_.AddHeartbeat("engine", 5000);
  grpc::ClientContext context, live_context;
  SetDeadline(context);
  SetDeadline(live_context);
  HealthCheckRequest request;
  request.set_service("ready");
  auto reader = stub_->Watch(&context, request);
  request.set_service("live");
  auto live_reader = stub_->Watch(&live_context, request);
  HealthCheckResponse got;
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.status(), HealthCheckResponse::NOT_SERVING);
  board_.SetReason("starting", false);
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.status(), HealthCheckResponse::SERVING);
  board_.SetReason("draining", true);
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.status(), HealthCheckResponse::NOT_SERVING);
  // Nothing tells of a loop that stopped; the service looks by itself.
  ASSERT_TRUE(live_reader->Read(&got));
  EXPECT_EQ(got.status(), HealthCheckResponse::SERVING);
  clock_.AdvanceMs(6000);
  ASSERT_TRUE(live_reader->Read(&got));
  EXPECT_EQ(got.status(), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
  EXPECT_FALSE(reader->Read(&got));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The other ends when the port goes.
  port_.reset();
  EXPECT_FALSE(live_reader->Read(&got));
  EXPECT_EQ(live_reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ProbePortTest, WatchOfUnknownServiceStaysOpen) {
  grpc::ClientContext context;
  SetDeadline(context);
  HealthCheckRequest request;
  request.set_service("no.Such");
  auto reader = stub_->Watch(&context, request);
  HealthCheckResponse got;
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  port_.reset();
  EXPECT_FALSE(reader->Read(&got));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ProbePortTest, ManyConnections) {
  for (int i = 0; i < 20; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt("test.connection", i);  // a channel of its own
    auto stub = Health::NewStub(grpc::CreateCustomChannel(
        port_->address(), grpc::InsecureChannelCredentials(), arguments));
    grpc::ClientContext context;
    SetDeadline(context);
    HealthCheckResponse response;
    ASSERT_TRUE(stub->Check(&context, {}, &response).ok());
    EXPECT_EQ(Get("/livez"), 200);
  }
}

TEST(HealthBoardTest, ReasonsChecksAndHeartbeats) {
  FakeClock clock;
  HealthBoard board(
      {.reasons = {"starting", "stuck", "draining"}, .clock = &clock});
  EXPECT_TRUE(board.ready());
  bool stuck = false;
  board.AddReasonCheck("stuck", [&stuck] { return stuck; });
  int changes = 0;
  board.AddListener([&changes] { ++changes; });
  board.SetReason("draining", true);
  board.SetReason("draining", true);
  EXPECT_EQ(changes, 1);
  stuck = true;
  EXPECT_EQ(board.reasons(), (std::vector<std::string>{"stuck", "draining"}));
  Heartbeat& beat = board.AddHeartbeat("loop", 100);
  clock.AdvanceMs(101);
  EXPECT_EQ(board.dead_loops(), std::vector<std::string>{"loop"});
  beat.SetIdle(true);
  clock.AdvanceMs(10'000);
  EXPECT_TRUE(board.live());
  beat.SetIdle(false);
  EXPECT_TRUE(board.live());
  MetricRegistry registry;
  board.Export(registry);
  const std::string text = registry.TextExposition();
  EXPECT_NE(text.find("sluice_ready{reason=\"ready\"} 0"), std::string::npos);
  EXPECT_NE(text.find("sluice_ready{reason=\"stuck\"} 1"), std::string::npos);
  EXPECT_NE(text.find("sluice_ready{reason=\"starting\"} 0"),
            std::string::npos);
  EXPECT_DEATH(board.SetReason("other", true), "CHECK");
}

}  // namespace
}  // namespace sluice
