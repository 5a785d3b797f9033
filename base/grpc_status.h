#ifndef BASE_GRPC_STATUS_H_
#define BASE_GRPC_STATUS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace grpc {
class Status;
class ServerContextBase;
}  // namespace grpc

namespace sluice {

// Facts attached to a status as payloads of google.rpc.RetryInfo and
// google.rpc.ErrorInfo (domain "sluice"). On an OK status they do nothing.
// A retry delay says: the same request may succeed after that many ms.
absl::Status WithRetry(absl::Status status, int64_t delay_ms);
// `reason`: UPPER_SNAKE_CASE, for programs.
absl::Status WithReason(absl::Status status, absl::string_view reason);

std::optional<int64_t> RetryDelayMs(const absl::Status& status);
std::string ReasonOf(const absl::Status& status);  // "" if none

// Same code numbers and message both ways. The facts travel as details of the
// grpc::Status, which gRPC sends as the trailer `grpc-status-details-bin`; on
// the way in, details that do not parse and codes that do not exist (UNKNOWN)
// are no error.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// ToGrpcStatus for the end of a call: also adds the trailer
// `grpc-retry-pushback-ms` to `context`, the delay, or -1 when an error has
// none. Call once per call, before it finishes.
grpc::Status FinishStatus(const absl::Status& status,
                          grpc::ServerContextBase& context);

}  // namespace sluice

#endif  // BASE_GRPC_STATUS_H_
