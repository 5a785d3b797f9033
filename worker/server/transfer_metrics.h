#ifndef WORKER_SERVER_TRANSFER_METRICS_H_
#define WORKER_SERVER_TRANSFER_METRICS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/metrics.h"
#include "kvtransfer/peer_table.h"
#include "kvtransfer/transfer_observer.h"
#include "kvtransfer/transfer_stats.h"

namespace sluice::worker {

// The metrics of KV transfers (sluice_kv_*). Distributions are observed as
// events come, on the transfer thread; totals and gauges are set at a scrape.
// Borrows the registry, which must outlive it.
class TransferMetrics : public kvtransfer::TransferObserver {
 public:
  // `transports`: names of those this worker has.
  TransferMetrics(MetricRegistry& registry,
                  const std::vector<absl::string_view>& transports);

  void OnTransferEnded(kvtransfer::TransferDirection direction,
                       const kvtransfer::TransferResult& result) override;
  void OnPlanned(kvtransfer::PlanKind kind, int64_t elapsed_us) override;
  void OnPaired(int64_t elapsed_us) override;
  void OnReleased(kvtransfer::Fence fence, int64_t elapsed_us) override;

  // Before a scrape; one call at a time.
  void Update(const kvtransfer::TransferStats& stats,
              const std::vector<kvtransfer::PeerInfo>& peers);

 private:
  // A counter and the total it has reached.
  struct Reached {
    Counter* counter = nullptr;
    uint64_t total = 0;
  };

  // Moves a series of the family forward to a total kept elsewhere.
  void Reach(CounterFamily& family, const std::vector<std::string>& labels,
             uint64_t total);
  void UpdatePeers(const std::vector<kvtransfer::PeerInfo>& peers);

  CounterFamily& transfers_;
  CounterFamily& bytes_;
  CounterFamily& copies_;
  CounterFamily& stale_;
  CounterFamily& late_;
  CounterFamily& digests_;
  CounterFamily& lost_;
  CounterFamily& refusals_;
  GaugeFamily& inflight_;
  GaugeFamily& inflight_bytes_;
  Gauge& quarantined_;
  GaugeFamily& peers_;
  HistogramFamily& seconds_;
  Histogram& exposed_;
  HistogramFamily& size_bytes_;
  HistogramFamily& copies_each_;
  HistogramFamily& rate_;
  Histogram& pair_;
  HistogramFamily& quarantine_;
  HistogramFamily& plan_;
  std::map<std::string, Reached> reached_;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_TRANSFER_METRICS_H_
