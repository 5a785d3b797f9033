#include "router/route/least_loaded.h"

#include "router/route/disaggregated.h"

namespace sluice::router {

RouteDecision LeastLoaded::Choose(const RouteRequest& request,
                                  const ClusterView& view) const {
  return ChoosePlacement(request, view, options_, QueuedTokens);
}

}  // namespace sluice::router
