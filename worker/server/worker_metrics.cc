#include "worker/server/worker_metrics.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sluice::worker {
namespace {

void RegisterState(const WorkerMetricsParts& parts, MetricRegistry& registry) {
  const v1::Identity& identity = parts.facts->identity;
  registry
      .AddGauge(
          "sluice_worker_info", "What this worker is.",
          {{"worker", identity.instance()},
           {"generation", absl::StrCat(identity.generation())},
           {"role", absl::AsciiStrToLower(v1::Role_Name(identity.role()))},
           {"model", identity.model()},
           {"model_digest", absl::BytesToHexString(identity.model_digest())},
           {"manifest_id", absl::BytesToHexString(identity.manifest_id())},
           {"tp", "1"},
           {"pp", "1"},
           {"ep", "1"},
           {"dp", "1"}})
      .Set(1);
  for (const v1::State state :
       {v1::STARTING, v1::SERVING, v1::DRAINING, v1::DRAINED, v1::FAILED}) {
    registry.AddCallbackGauge(
        "sluice_worker_state", "One state is 1.",
        {{"state", absl::AsciiStrToLower(v1::State_Name(state))}},
        [worker = parts.state, state] {
          return worker->Get() == state ? 1.0 : 0.0;
        });
  }
  registry.AddCallbackGauge("sluice_safe_to_delete", "Nothing is left to lose.",
                            {}, [worker = parts.state] {
                              return worker->Get() == v1::DRAINED ? 1.0 : 0.0;
                            });
}

// How long the step that runs, or work that waits for one, has made nothing.
double StepAgeSeconds(const EngineStats& stats, int64_t now_us) {
  int64_t age_us = 0;
  if (stats.step_started_us != 0) {
    age_us = now_us - stats.step_started_us;
  } else if (stats.waiting_seqs > stats.remote_seqs) {
    // Work that came to an idle engine has not waited since its last step.
    age_us = std::min(now_us - stats.last_step_end_us, stats.oldest_wait_us);
  }
  return static_cast<double>(std::max<int64_t>(age_us, 0)) * 1e-6;
}

void RegisterDrain(const WorkerMetricsParts& parts, MetricRegistry& registry) {
  GaugeFamily& remaining = registry.AddGaugeFamily(
      "sluice_drain_remaining", "What a drain would still wait for.", {"kind"});
  remaining.CreateAll({{"requests", "transfers", "blocks", "readers"}});
  registry.BeforeScrape([parts, &remaining] {
    const SnapshotRef<EngineStats> stats = parts.engine->stats();
    remaining.With({"requests"}).Set(stats->live_requests);
    remaining.With({"blocks"})
        .Set(stats->active_blocks + stats->quarantined_blocks);
    remaining.With({"readers"}).Set(parts.requests->size());
    if (parts.transfers == nullptr) return;
    const auto transfers = parts.transfers->Stats();
    const std::array<uint64_t, 2>& inflight = transfers->inflight_transfers;
    remaining.With({"transfers"}).Set(inflight[0] + inflight[1]);
  });
  registry.AddCallbackGauge(
      "sluice_journal_bytes", "Events kept for the readers of attempts.", {},
      [requests = parts.requests] {
        return static_cast<double>(requests->journal_bytes());
      });
  registry.AddCallbackGauge("sluice_orphans",
                            "Attempts whose reader stayed away.", {},
                            [requests = parts.requests] {
                              return static_cast<double>(requests->orphans());
                            });
  registry.AddCallbackCounter(
      "sluice_orphan_aborts_total", "Attempts ended for want of a reader.", {},
      [requests = parts.requests] {
        return static_cast<double>(requests->orphan_aborts());
      });
}

}  // namespace

void RegisterWorkerMetrics(const WorkerMetricsParts& parts,
                           MetricRegistry& registry) {
  RegisterState(parts, registry);
  registry.AddCallbackGauge(
      "sluice_last_step_age_seconds",
      "Since the running step was launched or work began to wait; 0 when idle.",
      {}, [engine = parts.engine, clock = parts.clock] {
        const SnapshotRef<EngineStats> stats = engine->stats();
        return StepAgeSeconds(*stats, clock->NowMicros());
      });
  RegisterDrain(parts, registry);
  if (parts.transfers == nullptr) return;
  registry.BeforeScrape(
      [metrics = parts.transfer_metrics, engine = parts.transfers] {
        const auto stats = engine->Stats();
        const auto peers = engine->Peers();
        metrics->Update(*stats, *peers);
      });
}

}  // namespace sluice::worker
