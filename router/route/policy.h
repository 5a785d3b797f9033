#ifndef ROUTER_ROUTE_POLICY_H_
#define ROUTER_ROUTE_POLICY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/cluster/cluster_view.h"

namespace sluice::router {

enum class Placement { kAuto, kAggregated, kDisaggregated };

// What has been dispatched to a worker since its last report, so not yet in
// its credits and load.
struct SpentCredits {
  uint64_t blocks = 0;
  uint64_t prefill_tokens = 0;
  uint32_t slots = 0;
};
using SpentByInstance = absl::flat_hash_map<std::string, SpentCredits>;

// Processes that fail too often to be chosen: instance and generation.
using EjectedInstances = absl::flat_hash_map<std::string, uint64_t>;

// Everything a choice depends on besides the cluster.
struct RouteRequest {
  std::string model;         // served name
  std::string model_digest;  // 32 bytes; empty: any
  uint32_t prompt_tokens = 0;
  uint32_t reserve_tokens = 0;  // to be generated, per choice
  uint32_t num_choices = 1;
  Placement placement = Placement::kAuto;
  std::string session_id;          // empty: none
  std::vector<std::string> avoid;  // instances
  std::string pin;                 // instance that must take part; empty: none
  uint64_t tie_break = 0;          // anything; spreads equal choices
  // Prompt tokens in a worker's prefix cache, by instance; absent: 0.
  absl::flat_hash_map<std::string, uint32_t> cached_tokens;
  const SpentByInstance* spent = nullptr;  // null: none
  // Not chosen, unless the last usable one of its role. Null: none.
  const EjectedInstances* ejected = nullptr;
};

enum class RouteReason {
  kPrefix,
  kLoad,
  kSession,
  kPinned,
  kOnlyOne,
  kFallbackLocal,
};
absl::string_view ReasonName(RouteReason reason);

struct RouteDecision {
  enum class Outcome {
    kChosen,
    kWait,    // some path exists, but none with credit now
    kNoPath,  // no live worker, or no pair with a link
  };
  Outcome outcome = Outcome::kNoPath;
  RouteReason reason = RouteReason::kLoad;
  // Runs the decode phase, or both phases if `prefill` is null. Points into
  // the view.
  const WorkerView* decode = nullptr;
  const WorkerView* prefill = nullptr;
  uint32_t cached_tokens = 0;  // predicted, where the prompt is computed
};

// Chooses workers. Pure: equal arguments give equal decisions; no state, no
// clock, any thread.
class RoutePolicy {
 public:
  virtual ~RoutePolicy() = default;
  virtual absl::string_view name() const = 0;
  virtual RouteDecision Choose(const RouteRequest& request,
                               const ClusterView& view) const = 0;
};

struct PolicyOptions {
  // A prompt of fewer tokens stays on a MIXED worker if there is one.
  uint32_t min_disaggregated_tokens = 0;
  // With no live prefill worker a decode worker computes the prompt itself.
  bool local_prefill_fallback = true;
};

// "" or "prefix_affinity", "least_loaded". kInvalidArgument: another name.
absl::StatusOr<std::unique_ptr<RoutePolicy>> MakeRoutePolicy(
    absl::string_view name, PolicyOptions options);

}  // namespace sluice::router

#endif  // ROUTER_ROUTE_POLICY_H_
