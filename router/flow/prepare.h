#ifndef ROUTER_FLOW_PREPARE_H_
#define ROUTER_FLOW_PREPARE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "proto/inference.pb.h"
#include "router/cluster/served_model.h"
#include "router/flow/choice_text.h"
#include "router/flow/request_flow.h"

namespace sluice::router {

// A request that passed every check, with every default filled in. With its
// tokens it is all that is needed to run it again elsewhere.
struct PreparedRequest {
  std::shared_ptr<const ServedModel> model;
  std::vector<uint32_t> prompt_ids;
  v1::SamplingParams sampling;  // as workers get it: no stop strings, no seed
  uint64_t seed = 0;
  uint32_t num_choices = 1;
  std::shared_ptr<const TextOptions> text;
  std::vector<std::string> stops;
  uint64_t unencodable_bytes = 0;
  int64_t template_us = -1;  // -1: no template ran
  int64_t tokenize_us = -1;  // -1: the prompt came as tokens
};

// The request field a status blames, or "".
std::string BlamedField(const absl::Status& status);

// kInvalidArgument, kUnimplemented (reason UNSUPPORTED_PARAMETER) or, for a
// prompt that leaves no room, kInvalidArgument with reason
// CONTEXT_LENGTH_EXCEEDED. Cost: that of tokenising the prompt.
absl::StatusOr<PreparedRequest> Prepare(
    const GenerateCall& call, std::shared_ptr<const ServedModel> model,
    const Clock& clock);

// Checks that need no model: ids, salt, priority, labels, features this build
// does not have.
absl::Status CheckCall(const GenerateCall& call);

// 1..128 of [A-Za-z0-9._-].
bool IsRequestId(absl::string_view id);

}  // namespace sluice::router

#endif  // ROUTER_FLOW_PREPARE_H_
