#ifndef PROTO_SAMPLING_CHECK_H_
#define PROTO_SAMPLING_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "proto/inference.pb.h"

namespace sluice {

// The model's side of the bounds.
struct SamplingBounds {
  uint32_t vocab = 0;
  uint32_t model_length = 0;  // tokens; the default of max_tokens
};

// Checks what a client set against the table of the sampling specification
// section 2, in its order; both router and worker call it. kInvalidArgument
// with the text of the first broken rule; kUnimplemented with reason
// UNSUPPORTED_PARAMETER for a field that no worker honours yet. Unset fields
// are fine.
absl::Status CheckSampling(const v1::SamplingParams& params,
                           const SamplingBounds& bounds);

}  // namespace sluice

#endif  // PROTO_SAMPLING_CHECK_H_
