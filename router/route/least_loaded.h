#ifndef ROUTER_ROUTE_LEAST_LOADED_H_
#define ROUTER_ROUTE_LEAST_LOADED_H_

#include "router/route/policy.h"

namespace sluice::router {

// The workers with the least work in front of them.
class LeastLoaded final : public RoutePolicy {
 public:
  explicit LeastLoaded(PolicyOptions options) : options_(options) {}

  absl::string_view name() const override { return "least_loaded"; }
  RouteDecision Choose(const RouteRequest& request,
                       const ClusterView& view) const override;

 private:
  const PolicyOptions options_;
};

}  // namespace sluice::router

#endif  // ROUTER_ROUTE_LEAST_LOADED_H_
