#include "router/flow/request_router.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"

namespace sluice::router {
namespace {

constexpr int64_t kBusyRetryMs = 1000;
constexpr int64_t kStopMs = 5000;

}  // namespace

RequestRouter::RequestRouter(RouterOptions options)
    : options_(std::move(options)),
      metrics_(*options_.metrics),
      timers_(*options_.clock),
      ejections_(*options_.clock),
      registry_(
          std::make_unique<WorkerRegistry>(WithCallbacks(options_.registry))) {
  admission_ = std::make_unique<Admission>(AdmissionOptions{
      .limits = options_.queue,
      .view = [this] { return registry_->view(); },
      .policy = options_.policy.get(),
      .ejections = &ejections_,
      .clock = options_.clock,
      .on_rejection =
          [this](const std::string& model, absl::string_view reason) {
            metrics_.OnRejection(model, reason);
          }});
  services_ = {
      .clock = options_.clock,
      .admission = admission_.get(),
      .ejections = &ejections_,
      .timers = &timers_,
      .metrics = &metrics_,
      .index = &index_,
      .router_id = options_.registry.router_id,
      .policy_name = std::string(options_.policy->name()),
      .limits = options_.limits,
      .view = [this] { return registry_->view(); },
      .find_model = [this](absl::string_view name) { return FindModel(name); },
      .enroll =
          [this](std::shared_ptr<GenerateFlow> flow) {
            return Enroll(std::move(flow));
          },
      .retire = [this](const std::string& id) { Retire(id); }};
}

RequestRouter::~RequestRouter() { Stop(); }

RegistryOptions RequestRouter::WithCallbacks(RegistryOptions options) {
  options.clock = options_.clock;
  options.on_kv_events = [this](const std::string& instance,
                                const v1::KvEvents& events) {
    index_.Apply(instance, {.cleared = events.cleared(),
                            .stored = events.stored(),
                            .removed = events.removed()});
  };
  options.on_cache_gone = [this](const std::string& instance) {
    index_.Remove(instance);
  };
  options.on_lost = [this](const std::string& instance, uint64_t generation) {
    OnWorkerLost(instance, generation);
  };
  options.on_publish = [this] { admission_->Pump(); };
  options.on_unknown_fields = [this] {
    metrics_.OnUnknownFields("WorkerReport");
  };
  options.on_tick = options_.on_tick;
  return options;
}

void RequestRouter::Start() {
  timers_.Start();
  registry_->Start();
}

void RequestRouter::StartDrain() { draining_ = true; }

bool RequestRouter::WaitIdle(int64_t budget_ms) {
  // Real time: it bounds a real wait.
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(budget_ms);
  MutexLock lock(mu_);
  while (!live_.empty()) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left.count() <= 0) return false;
    idle_.WaitFor(mu_, left);
  }
  return true;
}

void RequestRouter::Stop() {
  draining_ = true;
  for (const auto& flow : LiveFlows()) flow->Cancel(CancelCause::kShutdown);
  // Streams close within a round trip; a worker that does not answer loses
  // its connection with the registry.
  WaitIdle(kStopMs);
  timers_.Stop();
  registry_->Stop();
}

std::shared_ptr<Flow> RequestRouter::NewFlow(
    GenerateCall call, std::shared_ptr<FlowListener> listener) {
  return std::make_shared<GenerateFlow>(services_, std::move(call),
                                        std::move(listener));
}

bool RequestRouter::Cancel(absl::string_view request_id, CancelCause cause) {
  std::shared_ptr<GenerateFlow> flow;
  {
    MutexLock lock(mu_);
    auto it = live_.find(request_id);
    if (it == live_.end()) return false;
    flow = it->second;
  }
  flow->Cancel(cause);
  return true;
}

absl::Status RequestRouter::Enroll(std::shared_ptr<GenerateFlow> flow) {
  if (draining_) {
    metrics_.OnRejection("", "draining");
    return WithRetry(
        WithReason(absl::UnavailableError("the router is draining"),
                   "DRAINING"),
        kBusyRetryMs);
  }
  MutexLock lock(mu_);
  if (live_.size() >= options_.max_inflight) {
    metrics_.OnRejection("", "queue_full");
    return WithRetry(
        WithReason(absl::ResourceExhaustedError(absl::StrCat(
                       options_.max_inflight, " requests are in flight")),
                   "TOO_MANY_REQUESTS"),
        kBusyRetryMs);
  }
  const std::string& id = flow->request_id();
  if (!live_.try_emplace(id, flow).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request `", id, "` is in flight"));
  }
  return absl::OkStatus();
}

void RequestRouter::Retire(const std::string& request_id) {
  std::shared_ptr<GenerateFlow> flow;  // dies without the lock
  MutexLock lock(mu_);
  auto it = live_.find(request_id);
  if (it == live_.end()) return;
  flow = std::move(it->second);
  live_.erase(it);
  if (live_.empty()) idle_.NotifyAll();
}

std::vector<std::shared_ptr<GenerateFlow>> RequestRouter::LiveFlows() const {
  std::vector<std::shared_ptr<GenerateFlow>> flows;
  MutexLock lock(mu_);
  flows.reserve(live_.size());
  for (const auto& [id, flow] : live_) flows.push_back(flow);
  return flows;
}

void RequestRouter::OnWorkerLost(const std::string& instance,
                                 uint64_t generation) {
  for (const auto& flow : LiveFlows()) {
    flow->OnWorkerLost(instance, generation);
  }
}

size_t RequestRouter::num_live_flows() const {
  MutexLock lock(mu_);
  return live_.size();
}

absl::StatusOr<std::shared_ptr<const ServedModel>> RequestRouter::FindModel(
    absl::string_view name) const {
  const SnapshotRef<ClusterView> view = registry_->view();
  if (view->models.empty()) {
    return WithRetry(
        WithReason(absl::UnavailableError("no worker is known yet"), "NO_PATH"),
        kBusyRetryMs);
  }
  if (name.empty()) {
    if (view->models.size() == 1) return view->models.begin()->second;
    return absl::InvalidArgumentError("model must be given");
  }
  auto it = view->models.find(name);
  if (it == view->models.end()) {
    return absl::NotFoundError(
        absl::StrCat("model `", name.substr(0, 128), "` does not exist"));
  }
  return it->second;
}

bool RequestRouter::HasPath(const ServedModel& model,
                            const ClusterView& view) const {
  // An empty request of one token; credit or none, a path is a path.
  const RouteDecision decision =
      options_.policy->Choose({.model = model.name(),
                               .model_digest = model.digest(),
                               .prompt_tokens = 1,
                               .reserve_tokens = 1},
                              view);
  // A decode worker without a prefill worker serves what comes, but a cluster
  // that has lost its prefill workers is not ready for more.
  return decision.outcome != RouteDecision::Outcome::kNoPath &&
         decision.reason != RouteReason::kFallbackLocal;
}

std::vector<ModelStatus> RequestRouter::ListModels() const {
  const SnapshotRef<ClusterView> view = registry_->view();
  std::vector<ModelStatus> models;
  for (const auto& [name, model] : view->models) {
    models.push_back({.model = model, .ready = HasPath(*model, *view)});
  }
  return models;
}

Readiness RequestRouter::GetReadiness() const {
  Readiness readiness;
  if (draining_) readiness.reasons.push_back("draining");
  const std::vector<ModelStatus> models = ListModels();
  bool any = false;
  for (const ModelStatus& model : models) any = any || model.ready;
  if (models.empty()) {
    readiness.reasons.push_back("starting");
  } else if (!any) {
    readiness.reasons.push_back("no_path");
  }
  return readiness;
}

}  // namespace sluice::router
