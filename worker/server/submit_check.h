#ifndef WORKER_SERVER_SUBMIT_CHECK_H_
#define WORKER_SERVER_SUBMIT_CHECK_H_

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "proto/worker.pb.h"
#include "worker/engine/request.h"
#include "worker/server/worker_facts.h"

namespace sluice::worker {

// Checks a SubmitRequest against this worker and turns it into the engine's
// form (all but `key`). kInvalidArgument for what the caller can mend,
// kFailedPrecondition for a phase this role does not serve or an origin of
// other weights or numerics (`numerics <a> cannot continue <b>`),
// kUnimplemented with reason UNSUPPORTED_PARAMETER for what no configuration
// of this build honours, kDeadlineExceeded for a deadline that has passed.
absl::StatusOr<Request> CheckSubmit(const v1::SubmitRequest& submit,
                                    const WorkerFacts& facts,
                                    const Clock& clock);

// Tokens whose KV a split request moves: the prompt and what its open choices
// already have, which must be the same for all of them (the engine refuses
// others).
size_t TokensToMove(const Request& request);

}  // namespace sluice::worker

#endif  // WORKER_SERVER_SUBMIT_CHECK_H_
