#ifndef WORKER_SERVER_WORKER_METRICS_H_
#define WORKER_SERVER_WORKER_METRICS_H_

#include "base/metrics.h"
#include "kvtransfer/transfer_engine.h"
#include "worker/engine/engine.h"
#include "worker/server/request_table.h"
#include "worker/server/transfer_metrics.h"
#include "worker/server/worker_facts.h"
#include "worker/server/worker_state.h"

namespace sluice::worker {

// What is read at a scrape from the parts below; all borrowed until the
// registry is gone. The counters of the hot paths are the engine's own.
struct WorkerMetricsParts {
  const WorkerFacts* facts = nullptr;
  const Engine* engine = nullptr;
  const WorkerState* state = nullptr;
  const RequestTable* requests = nullptr;
  // Both null when there are no transfers.
  const kvtransfer::TransferEngine* transfers = nullptr;
  TransferMetrics* transfer_metrics = nullptr;
  const Clock* clock = nullptr;
};

void RegisterWorkerMetrics(const WorkerMetricsParts& parts,
                           MetricRegistry& registry);

}  // namespace sluice::worker

#endif  // WORKER_SERVER_WORKER_METRICS_H_
