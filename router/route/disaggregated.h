#ifndef ROUTER_ROUTE_DISAGGREGATED_H_
#define ROUTER_ROUTE_DISAGGREGATED_H_

#include <functional>

#include "router/route/policy.h"

namespace sluice::router {

// Work in front of this request on the worker that computes its prompt, and
// the prompt itself, in tokens; lower is better. The only thing policies
// differ in.
using PromptCost =
    std::function<double(const RouteRequest& request, const WorkerView&)>;

// Tokens queued on `worker`, reported or just dispatched.
double QueuedTokens(const RouteRequest& request, const WorkerView& worker);

// All the ways a request can run, and the cheapest that has credit: one MIXED
// worker, a PREFILL and a DECODE worker whose link is up and whose numerics
// agree, or, with no prefill worker left, a DECODE worker alone.
RouteDecision ChoosePlacement(const RouteRequest& request,
                              const ClusterView& view,
                              const PolicyOptions& options,
                              const PromptCost& prompt_cost);

}  // namespace sluice::router

#endif  // ROUTER_ROUTE_DISAGGREGATED_H_
