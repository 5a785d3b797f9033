#include "router/route/prefix_affinity.h"

#include <algorithm>

#include "router/route/disaggregated.h"

namespace sluice::router {

RouteDecision PrefixAffinity::Choose(const RouteRequest& request,
                                     const ClusterView& view) const {
  const auto cost = [](const RouteRequest& r, const WorkerView& worker) {
    auto it = r.cached_tokens.find(worker.instance);
    const uint32_t cached =
        it == r.cached_tokens.end() ? 0 : std::min(it->second, r.prompt_tokens);
    return QueuedTokens(r, worker) + (r.prompt_tokens - cached);
  };
  RouteDecision decision = ChoosePlacement(request, view, options_, cost);
  if (decision.reason == RouteReason::kLoad && decision.cached_tokens > 0) {
    decision.reason = RouteReason::kPrefix;
  }
  return decision;
}

}  // namespace sluice::router
