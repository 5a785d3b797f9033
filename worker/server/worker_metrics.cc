#include "worker/server/worker_metrics.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sluice::worker {
namespace {

using kvtransfer::TransferStats;

std::string CodeName(absl::StatusCode code) {
  return absl::AsciiStrToLower(absl::StatusCodeToString(code));
}

// Moves a counter forward to a total kept elsewhere.
class TotalCounter {
 public:
  explicit TotalCounter(Counter* counter) : counter_(counter) {}
  void Reach(uint64_t total) {
    if (total > seen_) counter_->Add(total - seen_);
    seen_ = std::max(seen_, total);
  }

 private:
  Counter* counter_;
  uint64_t seen_ = 0;
};

// The families of one registry and the totals already exported. Used at
// scrapes only, which are one at a time.
class TransferExport {
 public:
  explicit TransferExport(MetricRegistry& registry)
      : transfers_(registry.AddCounterFamily(
            "sluice_kv_transfers_total", "KV transfers by how they ended.",
            {"direction", "transport", "state", "code"})),
        bytes_(registry.AddCounterFamily("sluice_kv_transfer_bytes_total",
                                         "KV bytes moved.",
                                         {"direction", "transport"})),
        copies_(registry.AddCounterFamily("sluice_kv_transfer_copies_total",
                                          "Copies posted, after merging.",
                                          {"transport"})),
        stale_(registry.AddCounterFamily("sluice_kv_stale_messages_total",
                                         "Messages of an older generation.",
                                         {"kind"})),
        late_(registry.AddCounterFamily("sluice_kv_late_messages_total",
                                        "Messages after a terminal state.",
                                        {"kind"})),
        digests_(registry.AddCounterFamily("sluice_kv_digest_failures_total",
                                           "Spans whose digest was wrong.",
                                           {"peer"})),
        lost_(registry.AddCounterFamily("sluice_kv_peer_lost_total",
                                        "Peers declared lost.", {"peer"})),
        inflight_(registry.AddGaugeFamily("sluice_kv_inflight_transfers",
                                          "Transfers that have not ended.",
                                          {"direction"})),
        quarantined_(registry.AddGauge("sluice_kv_quarantined_blocks",
                                       "Blocks no one may use yet.")),
        peers_(registry.AddGaugeFamily(
            "sluice_kv_peers", "Peers by the state of the pair.", {"state"})) {
    inflight_.CreateAll({{"send", "receive"}});
    peers_.CreateAll({{"pairing", "up", "suspect", "refused"}});
  }

  void Update(const TransferStats& stats,
              const std::vector<kvtransfer::PeerInfo>& peers) {
    for (const auto& [key, count] : stats.transfers) {
      const auto& [direction, transport, state, code] = key;
      Reach(transfers_,
            {kvtransfer::TransferDirectionName(direction), transport,
             kvtransfer::TransferStateName(state), CodeName(code)},
            count);
    }
    std::map<std::string, uint64_t> copies;
    for (const auto& [key, volume] : stats.volumes) {
      Reach(bytes_, {kvtransfer::TransferDirectionName(key.first), key.second},
            volume.bytes);
      copies[key.second] += volume.copies;
    }
    for (const auto& [transport, count] : copies) {
      Reach(copies_, {transport}, count);
    }
    for (const auto& [kind, n] : stats.stale_messages) Reach(stale_, {kind}, n);
    for (const auto& [kind, n] : stats.late_messages) Reach(late_, {kind}, n);
    for (const auto& [peer, n] : stats.digest_failures) {
      Reach(digests_, {peer}, n);
    }
    for (const auto& [peer, n] : stats.peers_lost) Reach(lost_, {peer}, n);
    inflight_.With({"send"}).Set(stats.inflight_transfers[0]);
    inflight_.With({"receive"}).Set(stats.inflight_transfers[1]);
    quarantined_.Set(stats.quarantined_blocks);
    std::array<int, 4> states = {};
    for (const kvtransfer::PeerInfo& peer : peers) {
      ++states[static_cast<size_t>(peer.state)];
    }
    for (size_t i = 0; i < states.size(); ++i) {
      peers_
          .With({kvtransfer::PeerStateName(
              static_cast<kvtransfer::PeerState>(i))})
          .Set(states[i]);
    }
  }

 private:
  void Reach(CounterFamily& family, const std::vector<std::string>& labels,
             uint64_t total) {
    std::string key = absl::StrCat(reinterpret_cast<uintptr_t>(&family));
    for (const std::string& label : labels) absl::StrAppend(&key, "|", label);
    auto it = totals_.find(key);
    if (it == totals_.end()) {
      const std::vector<absl::string_view> views(labels.begin(), labels.end());
      it = totals_.emplace(key, TotalCounter(&family.With(views))).first;
    }
    it->second.Reach(total);
  }

  CounterFamily& transfers_;
  CounterFamily& bytes_;
  CounterFamily& copies_;
  CounterFamily& stale_;
  CounterFamily& late_;
  CounterFamily& digests_;
  CounterFamily& lost_;
  GaugeFamily& inflight_;
  Gauge& quarantined_;
  GaugeFamily& peers_;
  std::map<std::string, TotalCounter> totals_;
};

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
  auto transfers = std::make_shared<TransferExport>(registry);
  registry.BeforeScrape([transfers, engine = parts.transfers] {
    const auto stats = engine->Stats();
    const auto peers = engine->Peers();
    transfers->Update(*stats, *peers);
  });
}

}  // namespace sluice::worker
