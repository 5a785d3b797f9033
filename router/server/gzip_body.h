#ifndef ROUTER_SERVER_GZIP_BODY_H_
#define ROUTER_SERVER_GZIP_BODY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

// The text of a gzip file (RFC 1952; one member or several).
// kInvalidArgument: not gzip, cut short, or a checksum is wrong;
// kResourceExhausted: more than `max_bytes` come out. Memory: what comes out,
// never more than `max_bytes` and one step.
absl::StatusOr<std::string> Gunzip(absl::string_view packed,
                                   uint64_t max_bytes);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_GZIP_BODY_H_
