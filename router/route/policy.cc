#include "router/route/policy.h"

#include "absl/strings/str_cat.h"
#include "router/route/least_loaded.h"
#include "router/route/prefix_affinity.h"

namespace sluice::router {

absl::string_view ReasonName(RouteReason reason) {
  switch (reason) {
    case RouteReason::kPrefix:
      return "prefix";
    case RouteReason::kLoad:
      return "load";
    case RouteReason::kSession:
      return "session";
    case RouteReason::kPinned:
      return "pinned";
    case RouteReason::kOnlyOne:
      return "only_one";
    case RouteReason::kFallbackLocal:
      return "fallback_local";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<RoutePolicy>> MakeRoutePolicy(
    absl::string_view name, PolicyOptions options) {
  std::unique_ptr<RoutePolicy> policy;
  if (name.empty() || name == "prefix_affinity") {
    policy = std::make_unique<PrefixAffinity>(options);
  } else if (name == "least_loaded") {
    policy = std::make_unique<LeastLoaded>(options);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("route.policy must be prefix_affinity or least_loaded, "
                     "got `",
                     name, "`"));
  }
  return policy;
}

}  // namespace sluice::router
