#ifndef ROUTER_ROUTE_PREFIX_AFFINITY_H_
#define ROUTER_ROUTE_PREFIX_AFFINITY_H_

#include "router/route/policy.h"

namespace sluice::router {

// Where the first token comes soonest: the prompt tokens that a worker's
// prefix cache already holds count as work saved, against the work queued
// there. A long shared prefix therefore wins until its worker is that much
// busier than another.
class PrefixAffinity final : public RoutePolicy {
 public:
  explicit PrefixAffinity(PolicyOptions options) : options_(options) {}

  absl::string_view name() const override { return "prefix_affinity"; }
  RouteDecision Choose(const RouteRequest& request,
                       const ClusterView& view) const override;

 private:
  const PolicyOptions options_;
};

}  // namespace sluice::router

#endif  // ROUTER_ROUTE_PREFIX_AFFINITY_H_
