#ifndef ROUTER_SERVER_ROUTER_CONFIG_H_
#define ROUTER_SERVER_ROUTER_CONFIG_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/config.pb.h"
#include "router/flow/request_router.h"

namespace sluice::router {

// Sets every field that is not set to its documented default.
void FillDefaults(config::RouterConfig& config);

// kFailedPrecondition naming the field and its value: an address that is not
// host:port, no workers, an unknown policy, level or format, a limit of 0, or
// limits that contradict each other. Wants defaults filled in.
absl::Status CheckConfig(const config::RouterConfig& config);

// The router's options of a checked config, without metrics and callbacks.
absl::StatusOr<RouterOptions> MakeRouterOptions(
    const config::RouterConfig& config);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_ROUTER_CONFIG_H_
