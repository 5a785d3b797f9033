#ifndef ROUTER_SERVER_CALL_METADATA_H_
#define ROUTER_SERVER_CALL_METADATA_H_

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "router/flow/request_flow.h"

namespace sluice::router {

// One header that every surface understands, applied to `call`:
// x-request-id, traceparent, x-sluice-{deadline-ms,ttft-deadline-ms,session,
// timing,resumable,allow-numerics-change}. Others are ignored. `name` in lower
// case. kInvalidArgument: a value of ours that cannot be read.
absl::Status ApplyHeader(absl::string_view name, absl::string_view value,
                         GenerateCall& call);

// 1..128 bytes of [A-Za-z0-9._:/=+@-].
bool IsClientRequestId(absl::string_view id);

// The headers of a gRPC call and its deadline.
absl::Status ReadMetadata(const grpc::CallbackServerContext& context,
                          GenerateCall& call);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_CALL_METADATA_H_
