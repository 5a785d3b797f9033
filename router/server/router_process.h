#ifndef ROUTER_SERVER_ROUTER_PROCESS_H_
#define ROUTER_SERVER_ROUTER_PROCESS_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/admin_http.h"
#include "base/health.h"
#include "base/health_service.h"
#include "base/metrics.h"
#include "base/probe_port.h"
#include "proto/config.pb.h"
#include "router/flow/request_router.h"
#include "router/server/compute_pool.h"
#include "router/server/http_gateway.h"
#include "router/server/inference_service.h"
#include "router/server/router_metrics.h"

namespace sluice::router {

// A whole router in a process: the request router, its gRPC server with health
// and reflection, the HTTP gateway, /metrics and the probe port. The thread
// that made it also drains it.
class RouterProcess {
 public:
  // Listens everywhere and starts to look for workers. `config` is filled and
  // checked (router_config.h). kUnavailable: an address cannot be bound.
  static absl::StatusOr<std::unique_ptr<RouterProcess>> Start(
      const config::RouterConfig& config);
  ~RouterProcess();

  // Not ready from here on, and new requests are refused; what runs goes on.
  // Any thread.
  void StartDrain();
  // After StartDrain(): waits for what runs, at most `budget_ms`, ends the
  // rest, and stops everything. False: something had to be ended.
  bool FinishDrain(int64_t budget_ms);

  Router& router() { return *router_; }
  HealthBoard& health() { return *health_; }
  MetricRegistry& metrics() { return metrics_; }
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& http_address() const { return http_->address(); }
  const std::string& metrics_address() const {
    return metrics_http_->address();
  }
  const std::string& probe_address() const { return probe_->address(); }

 private:
  RouterProcess() = default;

  absl::Status StartGrpc(const config::RouterConfig& config);
  absl::Status StartHttp(const config::RouterConfig& config);
  void UpdateHealth();

  MetricRegistry metrics_;
  std::unique_ptr<HealthBoard> health_;
  // Shut down first, yet goes after the workers' channels (base/live_count.h).
  std::unique_ptr<grpc::Server> server_;
  Heartbeat* control_beat_ = nullptr;  // the board's
  std::string last_reasons_;           // control thread
  std::unique_ptr<RequestRouter> router_;
  std::unique_ptr<RouterMetrics> router_metrics_;
  ComputePool grpc_compute_{2, 2};  // outlives the server's calls
  std::unique_ptr<InferenceService> inference_;
  std::unique_ptr<HealthService> health_service_;
  std::string grpc_address_;
  std::unique_ptr<HttpGateway> http_;
  std::unique_ptr<AdminHttp> metrics_http_;
  std::unique_ptr<ProbePort> probe_;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_ROUTER_PROCESS_H_
