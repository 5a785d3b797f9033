#include "router/server/router_config.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice::router {
namespace {

config::RouterConfig GoodConfig() {
  config::RouterConfig config;
  config.mutable_workers()->add_static_("127.0.0.1:9001");
  FillDefaults(config);
  return config;
}

TEST(RouterConfigTest, DefaultsAreTheDocumentedOnes) {
  const config::RouterConfig config = GoodConfig();
  EXPECT_TRUE(CheckConfig(config).ok()) << CheckConfig(config);
  EXPECT_EQ(config.server().http_address(), "127.0.0.1:8000");
  EXPECT_EQ(config.server().probe_address(), "127.0.0.1:8003");
  EXPECT_EQ(config.route().policy(), "prefix_affinity");
  EXPECT_TRUE(config.route().local_prefill_fallback());
  EXPECT_EQ(config.queue().max_requests(), 4096u);
  EXPECT_EQ(config.request().default_duration_ms(), 600'000u);
  EXPECT_EQ(config.drain().budget_ms(), 600'000u);
  EXPECT_EQ(config.peer().silent_ms(), 1000u);
  EXPECT_FALSE(config.instance().empty());
}

TEST(RouterConfigTest, KeepsWhatIsSet) {
  config::RouterConfig config;
  config.mutable_route()->set_local_prefill_fallback(false);
  config.mutable_request()->set_max_duration_ms(5000);
  config.mutable_drain()->set_budget_ms(0);
  FillDefaults(config);
  EXPECT_FALSE(config.route().local_prefill_fallback());
  EXPECT_EQ(config.request().default_duration_ms(), 5000u);
  EXPECT_EQ(config.drain().budget_ms(), 0u);
}

TEST(RouterConfigTest, ErrorsNameFieldAndValue) {
  const std::pair<void (*)(config::RouterConfig&), const char*> cases[] = {
      {[](auto& c) { c.clear_workers(); },
       "workers has neither static nor dns entries"},
      {[](auto& c) { c.mutable_workers()->add_static_("nowhere"); },
       "workers.static `nowhere` is not host:port"},
      {[](auto& c) { c.mutable_workers()->add_dns("a:b"); },
       "workers.dns `a:b` is not host:port"},
      {[](auto& c) { c.mutable_server()->set_grpc_address("x"); },
       "server.grpc_address `x` is not host:port"},
      {[](auto& c) { c.mutable_route()->set_policy("best"); },
       "route.policy: route.policy must be prefix_affinity or "
       "least_loaded, got `best`"},
      {[](auto& c) { c.mutable_http()->add_cors_origins("*"); },
       "http.cors_origins is not supported yet"},
      {[](auto& c) { c.mutable_http()->set_allow_request_templates(true); },
       "http.allow_request_templates is not supported yet"},
      {[](auto& c) { c.mutable_queue()->set_max_requests(0); },
       "queue.max_requests must not be 0"},
      {[](auto& c) { c.mutable_peer()->set_silent_ms(100); },
       "peer.silent_ms 100 must be above peer.beat_ms 200"},
      {[](auto& c) { c.mutable_request()->set_max_duration_ms(1); },
       "request.default_duration_ms 600000 is above "
       "request.max_duration_ms 1"},
      {[](auto& c) { c.mutable_grpc()->set_max_receive_bytes(3u << 30); },
       "grpc.max_receive_bytes 3221225472 is above 2147483647"}};
  for (const auto& [change, message] : cases) {
    config::RouterConfig config = GoodConfig();
    change(config);
    const absl::Status status = CheckConfig(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status.message(), message);
  }
  config::RouterConfig config = GoodConfig();
  config.mutable_log()->set_level("loud");
  EXPECT_FALSE(CheckConfig(config).ok());
  config = GoodConfig();
  config.mutable_server()->set_http_address("127.0.0.1:0");
  EXPECT_TRUE(CheckConfig(config).ok());
}

}  // namespace
}  // namespace sluice::router
