#ifndef ROUTER_FLOW_REQUEST_ROUTER_H_
#define ROUTER_FLOW_REQUEST_ROUTER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/snapshot.h"
#include "router/cluster/worker_registry.h"
#include "router/flow/admission.h"
#include "router/flow/deadline.h"
#include "router/flow/ejection.h"
#include "router/flow/flow_metrics.h"
#include "router/flow/generate_flow.h"
#include "router/flow/request_flow.h"
#include "router/route/policy.h"
#include "router/route/prefix_index.h"

namespace sluice::router {

struct RouterOptions {
  RegistryOptions registry;  // without callbacks: the router sets them
  std::unique_ptr<RoutePolicy> policy;
  WaitLimits queue;
  FlowLimits limits;
  uint32_t max_inflight = 16'384;
  MetricRegistry* metrics = nullptr;  // outlives the router
  const Clock* clock = &SystemClock::Get();
  std::function<void()> on_tick;  // each turn of the control thread
};

// The router behind its surfaces: owns the registry, the queue, the timers and
// the table of live flows.
class RequestRouter final : public Router {
 public:
  explicit RequestRouter(RouterOptions options);
  ~RequestRouter() override;

  void Start();
  // New flows are refused from here on.
  void StartDrain();
  // Waits until no flow is live, at most `budget_ms`; false: some are.
  bool WaitIdle(int64_t budget_ms);
  // Ends what is left and all threads. Idempotent.
  void Stop();

  std::shared_ptr<Flow> NewFlow(
      GenerateCall call, std::shared_ptr<FlowListener> listener) override;
  bool Cancel(absl::string_view request_id, CancelCause cause) override;
  absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(
      absl::string_view name) const override;
  std::vector<ModelStatus> ListModels() const override;
  Readiness GetReadiness() const override;

  size_t num_live_flows() const;
  SnapshotRef<ClusterView> view() const { return registry_->view(); }
  const PrefixIndex& prefix_index() const { return index_; }
  Admission& admission() { return *admission_; }
  FlowMetrics& metrics() { return metrics_; }

 private:
  absl::Status Enroll(std::shared_ptr<GenerateFlow> flow);
  void Retire(const std::string& request_id);
  void OnWorkerLost(const std::string& instance, uint64_t generation);
  std::vector<std::shared_ptr<GenerateFlow>> LiveFlows() const;
  RegistryOptions WithCallbacks(RegistryOptions options);
  bool HasPath(const ServedModel& model, const ClusterView& view) const;

  const RouterOptions options_;
  PrefixIndex index_;
  FlowMetrics metrics_;
  TimerQueue timers_;
  Ejections ejections_;
  std::unique_ptr<WorkerRegistry> registry_;
  std::unique_ptr<Admission> admission_;
  FlowServices services_;
  std::atomic<bool> draining_{false};
  mutable Mutex mu_;
  CondVar idle_;
  absl::flat_hash_map<std::string, std::shared_ptr<GenerateFlow>> live_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_REQUEST_ROUTER_H_
