#include "router/server/router_process.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/admin_http.h"
#include "router/server/router_config.h"
#include "router/server/smoke.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

config::RouterConfig ConfigFor(const FakeWorker& worker) {
  config::RouterConfig config;
  config.mutable_workers()->add_static_(worker.address());
  for (std::string* address :
       {config.mutable_server()->mutable_grpc_address(),
        config.mutable_server()->mutable_http_address(),
        config.mutable_server()->mutable_metrics_address(),
        config.mutable_server()->mutable_probe_address()}) {
    *address = "127.0.0.1:0";
  }
  config.mutable_peer()->set_silent_ms(600'000);
  FillDefaults(config);
  return config;
}

int Get(const std::string& address, const std::string& path) {
  const auto status = HttpGetStatus(address, path, 5000);
  return status.ok() ? *status : -1;
}

TEST(RouterProcessTest, ServesProbesSmokeAndDrain) {
  FakeWorker worker("w0", v1::MIXED, Answering("hello"));
  worker.Report([](v1::WorkerReport& r) { r.set_state(v1::STARTING); });
  auto process = RouterProcess::Start(ConfigFor(worker));
  ASSERT_TRUE(process.ok()) << process.status();
  RouterProcess& router = **process;
  EXPECT_EQ(Get(router.probe_address(), "/livez"), 200);
  EXPECT_EQ(Get(router.probe_address(), "/readyz"), 503);
  worker.Report([](v1::WorkerReport& r) { r.set_state(v1::SERVING); });
  ASSERT_TRUE(Eventually(
      [&] { return Get(router.probe_address(), "/readyz") == 200; }));
  EXPECT_EQ(Get(router.metrics_address(), "/metrics"), 200);
  const std::string metrics = router.metrics().TextExposition();
  for (const char* line :
       {"sluice_router_model_ready{model=\"m\"} 1",
        "sluice_router_workers{model=\"m\",role=\"mixed\",state=\"serving\"}"
        " 1"}) {
    EXPECT_NE(metrics.find(line), std::string::npos) << line;
  }

  const auto text = SmokeTest(router.grpc_address());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "hello");

  router.StartDrain();
  EXPECT_EQ(Get(router.probe_address(), "/readyz"), 503);
  EXPECT_EQ(Get(router.probe_address(), "/livez"), 200);
  EXPECT_FALSE(SmokeTest(router.grpc_address()).ok());
  EXPECT_TRUE(router.FinishDrain(10'000));
}

TEST(RouterProcessTest, WorkerStateShowsInReadiness) {
  FakeWorker worker("w0", v1::MIXED, Answering("hello"));
  auto process = RouterProcess::Start(ConfigFor(worker));
  ASSERT_TRUE(process.ok()) << process.status();
  RouterProcess& router = **process;
  ASSERT_TRUE(Eventually([&] { return router.health().ready(); }));
  worker.Kill();
  ASSERT_TRUE(Eventually([&] { return !router.health().ready(); }));
  EXPECT_EQ(router.health().reasons(), std::vector<std::string>{"no_path"});
}

TEST(RouterProcessTest, TakenPortIsAnError) {
  FakeWorker worker("w0", v1::MIXED);
  config::RouterConfig config = ConfigFor(worker);
  config.mutable_server()->set_grpc_address(worker.address());
  const auto process = RouterProcess::Start(config);
  EXPECT_EQ(process.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(process.status().message().find(worker.address()),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::router
