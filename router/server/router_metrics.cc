#include "router/server/router_metrics.h"

#include <utility>

namespace sluice::router {

RouterMetrics::RouterMetrics(MetricRegistry& registry, RequestRouter& router)
    : router_(router),
      workers_{&registry.AddGaugeFamily("sluice_router_workers",
                                        "Workers as this router sees them.",
                                        {"model", "role", "state"}),
               {}},
      model_ready_{&registry.AddGaugeFamily("sluice_router_model_ready",
                                            "1 when an admissible path exists.",
                                            {"model"}),
                   {}},
      credits_{&registry.AddGaugeFamily("sluice_router_credits",
                                        "What workers say they would take.",
                                        {"model", "role", "kind"}),
               {}},
      queue_requests_{
          &registry.AddGaugeFamily("sluice_router_queue_requests",
                                   "Waiting for a credit.", {"model"}),
          {}},
      queue_tokens_{
          &registry.AddGaugeFamily("sluice_router_queue_tokens",
                                   "Prompt tokens that wait.", {"model"}),
          {}},
      queue_bytes_{&registry.AddGaugeFamily("sluice_router_queue_bytes",
                                            "Memory of what waits.", {"model"}),
                   {}},
      queue_oldest_{&registry.AddGaugeFamily(
                        "sluice_router_queue_oldest_seconds",
                        "How long the oldest has waited.", {"model"}),
                    {}},
      index_blocks_(registry.AddGauge("sluice_router_index_blocks",
                                      "Blocks in the prefix index.")),
      index_bytes_(registry.AddGauge("sluice_router_index_bytes",
                                     "Memory of the prefix index, about.")) {
  registry.BeforeScrape([this] { Update(); });
}

void RouterMetrics::Clear(Family& family) {
  for (const std::vector<std::string>& labels : family.seen) {
    const std::vector<absl::string_view> views(labels.begin(), labels.end());
    family.gauges->With(views).Set(0);
  }
}

void RouterMetrics::Add(Family& family, std::vector<std::string> labels,
                        double value) {
  const std::vector<absl::string_view> views(labels.begin(), labels.end());
  family.gauges->With(views).Add(value);
  family.seen.insert(std::move(labels));
}

void RouterMetrics::Update() {
  const SnapshotRef<ClusterView> view = router_.view();
  MutexLock lock(mu_);
  UpdateWorkers(*view);
  UpdateQueues();
  index_blocks_.Set(static_cast<double>(router_.prefix_index().num_blocks()));
  index_bytes_.Set(static_cast<double>(router_.prefix_index().size_bytes()));
}

void RouterMetrics::UpdateWorkers(const ClusterView& view) {
  Clear(workers_);
  Clear(model_ready_);
  Clear(credits_);
  for (const WorkerView& worker : view.workers) {
    const std::string role(RoleName(worker.role));
    Add(workers_, {worker.model, role, std::string(PhaseName(worker.phase))},
        1);
    if (worker.phase != WorkerPhase::kServing || !worker.credits.known) {
      continue;
    }
    const std::pair<const char*, double> kinds[] = {
        {"blocks", static_cast<double>(worker.credits.blocks)},
        {"tokens", static_cast<double>(worker.credits.prefill_tokens)},
        {"bytes", static_cast<double>(worker.credits.inbound_bytes)},
        {"slots", static_cast<double>(worker.credits.slots)}};
    for (const auto& [kind, value] : kinds) {
      Add(credits_, {worker.model, role, kind}, value);
    }
  }
  for (const ModelStatus& status : router_.ListModels()) {
    Add(model_ready_, {status.model->name()}, status.ready ? 1 : 0);
  }
}

void RouterMetrics::UpdateQueues() {
  for (Family* family :
       {&queue_requests_, &queue_tokens_, &queue_bytes_, &queue_oldest_}) {
    Clear(*family);
  }
  for (const Admission::QueueStats& stats : router_.admission().Stats()) {
    Add(queue_requests_, {stats.model}, static_cast<double>(stats.requests));
    Add(queue_tokens_, {stats.model}, static_cast<double>(stats.tokens));
    Add(queue_bytes_, {stats.model}, static_cast<double>(stats.bytes));
    Add(queue_oldest_, {stats.model}, stats.oldest_seconds);
  }
}

}  // namespace sluice::router
