#ifndef ROUTER_SERVER_SMOKE_H_
#define ROUTER_SERVER_SMOKE_H_

#include <string>

#include "absl/status/statusor.h"

namespace sluice::router {

// One short native request to the router at `address` (host:port of its gRPC
// port), a chat if the first model can: the text it answers. Blocks at most a
// minute. The router's status if it fails; kInternal: it answered nothing.
absl::StatusOr<std::string> SmokeTest(const std::string& address);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_SMOKE_H_
