#include "router/server/router_process.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/metrics_endpoint.h"
#include "base/process_metrics.h"
#include "base/status_macros.h"
#include "router/server/router_config.h"

namespace sluice::router {
namespace {

constexpr const char* kReasons[] = {"starting", "no_path", "draining"};
constexpr std::chrono::seconds kCloseGrace(1);

void TuneServer(const config::RouterConfig& config,
                grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(
      static_cast<int>(config.grpc().max_receive_bytes()));
  // Two routers must not share a port by accident.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Gateways ping idle connections; the library would answer GOAWAY.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1000);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RouterProcess>> RouterProcess::Start(
    const config::RouterConfig& config) {
  std::unique_ptr<RouterProcess> process(new RouterProcess());
  RouterProcess& self = *process;
  RegisterProcessMetrics("router", self.metrics_);
  self.metrics_.BoundLabel("model", 64);
  self.health_ = std::make_unique<HealthBoard>(
      HealthOptions{.reasons = {std::begin(kReasons), std::end(kReasons)},
                    .initial = {"starting"},
                    .services = {"sluice.v1.Inference"}});
  self.health_->Export(self.metrics_);
  self.control_beat_ = &self.health_->AddHeartbeat("control");
  ASSIGN_OR_RETURN(RouterOptions options, MakeRouterOptions(config));
  options.metrics = &self.metrics_;
  options.on_tick = [&self] { self.UpdateHealth(); };
  self.router_ = std::make_unique<RequestRouter>(std::move(options));
  self.router_metrics_ =
      std::make_unique<RouterMetrics>(self.metrics_, *self.router_);
  RETURN_IF_ERROR(self.StartGrpc(config));
  RETURN_IF_ERROR(self.StartHttp(config));
  ASSIGN_OR_RETURN(
      self.metrics_http_,
      AdminHttp::Start(
          {.address = config.server().metrics_address(),
           .handlers = {{"/metrics", MetricsHandler(self.metrics_)}},
           .thread_name = "metrics"}));
  ASSIGN_OR_RETURN(
      self.probe_,
      ProbePort::Start(config.server().probe_address(), *self.health_));
  self.router_->Start();
  return process;
}

absl::Status RouterProcess::StartGrpc(const config::RouterConfig& config) {
  inference_ = std::make_unique<InferenceService>(
      *router_,
      [this](absl::string_view message) {
        router_->metrics().OnUnknownFields(message);
      },
      &grpc_compute_);
  health_service_ = std::make_unique<HealthService>(*health_);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::EnableDefaultHealthCheckService(false);
  grpc::ServerBuilder builder;
  TuneServer(config, builder);
  int port = 0;
  const std::string& address = config.server().grpc_address();
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(inference_.get());
  builder.RegisterService(health_service_->service());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on server.grpc_address `", address, "`"));
  }
  grpc_address_ =
      absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
  return absl::OkStatus();
}

absl::Status RouterProcess::StartHttp(const config::RouterConfig& config) {
  HttpGatewayOptions options;
  options.address = config.server().http_address();
  options.max_body_bytes = config.http().max_body_bytes();
  options.routes.limits.tolerated_fields.assign(
      config.http().tolerated_fields().begin(),
      config.http().tolerated_fields().end());
  if (config.http().metrics_on_api_port()) {
    options.routes.metrics = [this] { return metrics_.TextExposition(); };
  }
  ASSIGN_OR_RETURN(http_,
                   HttpGateway::Start(std::move(options), *router_, metrics_));
  return absl::OkStatus();
}

// On the control thread, at each turn of its loop.
void RouterProcess::UpdateHealth() {
  control_beat_->Tick();
  const Readiness readiness = router_->GetReadiness();
  const std::string reasons = absl::StrJoin(readiness.reasons, ",");
  if (reasons == last_reasons_) return;
  Log(kInfo, "readiness",
      {{"before", last_reasons_}, {"after", reasons}, {"cause", "cluster"}});
  last_reasons_ = reasons;
  for (const char* reason : kReasons) {
    bool holds = false;
    for (const std::string& r : readiness.reasons) holds = holds || r == reason;
    health_->SetReason(reason, holds);
  }
}

void RouterProcess::StartDrain() {
  router_->StartDrain();
  http_->StartDrain();
  health_->SetReason("draining", true);
}

bool RouterProcess::FinishDrain(int64_t budget_ms) {
  const bool drained = router_->WaitIdle(budget_ms);
  // Ends what is left with UNAVAILABLE before the connections close.
  router_->Stop();
  http_.reset();
  health_service_->Shutdown();
  server_->Shutdown(std::chrono::system_clock::now() + kCloseGrace);
  server_->Wait();
  probe_.reset();
  metrics_http_.reset();
  return drained;
}

RouterProcess::~RouterProcess() {
  if (router_ != nullptr) router_->Stop();
  http_.reset();
  if (health_service_ != nullptr) health_service_->Shutdown();
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now() + kCloseGrace);
  }
}

}  // namespace sluice::router
