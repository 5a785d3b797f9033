#include "router/server/router_config.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/cluster/resolver.h"

namespace sluice::router {
namespace {

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

void Default(const char* value, std::string* field) {
  if (field->empty()) *field = value;
}

absl::Status Wrong(absl::string_view field, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(field, " ", what));
}

// As ParseHostPort(), but port 0 is legal: any free one.
absl::Status CheckListenAddress(absl::string_view field,
                                const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon != std::string::npos && address.substr(colon) == ":0" &&
      ParseHostPort(address.substr(0, colon) + ":1").ok()) {
    return absl::OkStatus();
  }
  if (!ParseHostPort(address).ok()) {
    return Wrong(field, absl::StrCat("`", address, "` is not host:port"));
  }
  return absl::OkStatus();
}

absl::Status CheckWorkers(const config::RouterConfig::Workers& workers) {
  if (workers.static__size() + workers.dns_size() == 0) {
    return Wrong("workers", "has neither static nor dns entries");
  }
  for (const std::string& address : workers.static_()) {
    if (!ParseHostPort(address).ok()) {
      return Wrong("workers.static",
                   absl::StrCat("`", address, "` is not host:port"));
    }
  }
  for (const std::string& name : workers.dns()) {
    if (!ParseHostPort(name).ok()) {
      return Wrong("workers.dns",
                   absl::StrCat("`", name, "` is not host:port"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLimits(const config::RouterConfig& config) {
  const std::pair<const char*, uint64_t> positive[] = {
      {"http.max_body_bytes", config.http().max_body_bytes()},
      {"grpc.max_receive_bytes", config.grpc().max_receive_bytes()},
      {"queue.max_requests", config.queue().max_requests()},
      {"queue.max_bytes", config.queue().max_bytes()},
      {"queue.max_tokens", config.queue().max_tokens()},
      {"request.max_duration_ms", config.request().max_duration_ms()},
      {"request.default_duration_ms", config.request().default_duration_ms()},
      {"stream.stall_timeout_ms", config.stream().stall_timeout_ms()},
      {"peer.beat_ms", config.peer().beat_ms()},
      {"peer.silent_ms", config.peer().silent_ms()}};
  for (const auto& [field, value] : positive) {
    if (value == 0) return Wrong(field, "must not be 0");
  }
  if (config.grpc().max_receive_bytes() > INT32_MAX) {
    return Wrong("grpc.max_receive_bytes",
                 absl::StrCat(config.grpc().max_receive_bytes(), " is above ",
                              INT32_MAX));
  }
  if (config.peer().silent_ms() <= config.peer().beat_ms()) {
    return Wrong("peer.silent_ms", absl::StrCat(config.peer().silent_ms(),
                                                " must be above peer.beat_ms ",
                                                config.peer().beat_ms()));
  }
  if (config.request().default_duration_ms() >
      config.request().max_duration_ms()) {
    return Wrong("request.default_duration_ms",
                 absl::StrCat(config.request().default_duration_ms(),
                              " is above request.max_duration_ms ",
                              config.request().max_duration_ms()));
  }
  return absl::OkStatus();
}

absl::Status AsConfigError(absl::string_view field, const absl::Status& s) {
  return s.ok() ? s
                : absl::FailedPreconditionError(
                      absl::StrCat(field, ": ", s.message()));
}

}  // namespace

void FillDefaults(config::RouterConfig& config) {
  if (config.instance().empty()) {
    config.set_instance(absl::StrCat(HostName(), "-router"));
  }
  auto* server = config.mutable_server();
  Default("127.0.0.1:8000", server->mutable_http_address());
  Default("127.0.0.1:8001", server->mutable_grpc_address());
  Default("127.0.0.1:8002", server->mutable_metrics_address());
  Default("127.0.0.1:8003", server->mutable_probe_address());
  Default("prefix_affinity", config.mutable_route()->mutable_policy());
  auto* route = config.mutable_route();
  if (!route->has_min_disaggregated_tokens()) {
    route->set_min_disaggregated_tokens(0);
  }
  if (!route->has_local_prefill_fallback()) {
    route->set_local_prefill_fallback(true);
  }
  auto* http = config.mutable_http();
  if (!http->has_max_body_bytes()) http->set_max_body_bytes(32u << 20);
  auto* grpc = config.mutable_grpc();
  if (!grpc->has_max_receive_bytes()) grpc->set_max_receive_bytes(64u << 20);
  auto* queue = config.mutable_queue();
  if (!queue->has_max_requests()) queue->set_max_requests(4096);
  if (!queue->has_max_bytes()) queue->set_max_bytes(256u << 20);
  if (!queue->has_max_tokens()) queue->set_max_tokens(4u << 20);
  auto* request = config.mutable_request();
  if (!request->has_max_duration_ms()) {
    request->set_max_duration_ms(3'600'000);
  }
  if (!request->has_default_duration_ms()) {
    request->set_default_duration_ms(
        std::min<uint32_t>(600'000, request->max_duration_ms()));
  }
  auto* stream = config.mutable_stream();
  if (!stream->has_stall_timeout_ms()) stream->set_stall_timeout_ms(60'000);
  auto* log = config.mutable_log();
  if (!log->has_level()) log->set_level("info");
  if (!log->has_format()) log->set_format("json");
  auto* drain = config.mutable_drain();
  if (!drain->has_budget_ms()) drain->set_budget_ms(600'000);
  auto* peer = config.mutable_peer();
  if (!peer->has_beat_ms()) peer->set_beat_ms(200);
  if (!peer->has_silent_ms()) peer->set_silent_ms(1000);
}

absl::Status CheckConfig(const config::RouterConfig& config) {
  const auto& server = config.server();
  RETURN_IF_ERROR(
      CheckListenAddress("server.http_address", server.http_address()));
  RETURN_IF_ERROR(
      CheckListenAddress("server.grpc_address", server.grpc_address()));
  RETURN_IF_ERROR(
      CheckListenAddress("server.metrics_address", server.metrics_address()));
  RETURN_IF_ERROR(
      CheckListenAddress("server.probe_address", server.probe_address()));
  RETURN_IF_ERROR(CheckWorkers(config.workers()));
  RETURN_IF_ERROR(CheckLimits(config));
  if (config.http().cors_origins_size() > 0) {
    return Wrong("http.cors_origins", "is not supported yet");
  }
  if (config.http().allow_request_templates()) {
    return Wrong("http.allow_request_templates", "is not supported yet");
  }
  RETURN_IF_ERROR(
      AsConfigError("log.level", ParseLogLevel(config.log().level()).status()));
  RETURN_IF_ERROR(AsConfigError(
      "log.format", ParseLogFormat(config.log().format()).status()));
  return AsConfigError("route.policy",
                       MakeRoutePolicy(config.route().policy(), {}).status());
}

absl::StatusOr<RouterOptions> MakeRouterOptions(
    const config::RouterConfig& config) {
  RouterOptions options;
  options.registry.fixed.assign(config.workers().static_().begin(),
                                config.workers().static_().end());
  options.registry.dns.assign(config.workers().dns().begin(),
                              config.workers().dns().end());
  options.registry.router_id = config.instance();
  options.registry.silent_ms = config.peer().silent_ms();
  options.registry.lost_ms = 5 * options.registry.silent_ms;
  ASSIGN_OR_RETURN(
      options.policy,
      MakeRoutePolicy(
          config.route().policy(),
          {.min_disaggregated_tokens =
               config.route().min_disaggregated_tokens(),
           .local_prefill_fallback = config.route().local_prefill_fallback()}));
  options.queue = {.max_requests = config.queue().max_requests(),
                   .max_bytes = config.queue().max_bytes(),
                   .max_tokens = config.queue().max_tokens()};
  options.limits.default_duration_ms = config.request().default_duration_ms();
  options.limits.max_duration_ms = config.request().max_duration_ms();
  options.limits.stall_timeout_ms = config.stream().stall_timeout_ms();
  return options;
}

}  // namespace sluice::router
