#ifndef ROUTER_SERVER_ROUTER_METRICS_H_
#define ROUTER_SERVER_ROUTER_METRICS_H_

#include <set>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/mutex.h"
#include "router/flow/request_router.h"

namespace sluice::router {

// Gauges of what a router knows of its cluster and its queue, set at each
// scrape from one snapshot. Outlives neither the registry nor the router.
class RouterMetrics {
 public:
  RouterMetrics(MetricRegistry& registry, RequestRouter& router);

 private:
  // A gauge family whose series fall to 0 when nobody sets them any more.
  struct Family {
    GaugeFamily* gauges;
    std::set<std::vector<std::string>> seen;
  };

  void Update();
  void UpdateWorkers(const ClusterView& view)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UpdateQueues() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void Clear(Family& family);
  static void Add(Family& family, std::vector<std::string> labels,
                  double value);

  RequestRouter& router_;
  Mutex mu_;  // two scrapes at once
  Family workers_ ABSL_GUARDED_BY(mu_);
  Family model_ready_ ABSL_GUARDED_BY(mu_);
  Family credits_ ABSL_GUARDED_BY(mu_);
  Family queue_requests_ ABSL_GUARDED_BY(mu_);
  Family queue_tokens_ ABSL_GUARDED_BY(mu_);
  Family queue_bytes_ ABSL_GUARDED_BY(mu_);
  Family queue_oldest_ ABSL_GUARDED_BY(mu_);
  Gauge& index_blocks_;
  Gauge& index_bytes_;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_ROUTER_METRICS_H_
