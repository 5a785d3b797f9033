#ifndef WORKER_HANDOFF_LOGPROBS_PROTO_H_
#define WORKER_HANDOFF_LOGPROBS_PROTO_H_

#include "proto/inference.pb.h"
#include "worker/engine/token_sink.h"

namespace sluice::worker {

// Log-probabilities of one position on a wire, there and back. `proto` must be
// empty.
void ToProto(const TokenLogprobs& logprobs, v1::PositionLogprobs* proto);
TokenLogprobs FromProto(const v1::PositionLogprobs& proto);

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_LOGPROBS_PROTO_H_
