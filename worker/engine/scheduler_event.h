#ifndef WORKER_ENGINE_SCHEDULER_EVENT_H_
#define WORKER_ENGINE_SCHEDULER_EVENT_H_

#include <cstdint>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/kv_handoff.h"
#include "worker/engine/request.h"
#include "worker/engine/token_sink.h"

namespace sluice::worker {

// What the scheduler has to tell a request's TokenSink or the KvHandoff, as
// values, in the order it happened. Named after the call it becomes.

struct StartedEvent {
  RequestKey key = 0;
  uint32_t cached_tokens = 0;
  bool looked_up = false;  // the prefix cache was asked
};
struct PromptLogprobsEvent {
  RequestKey key = 0;
  std::vector<TokenLogprobs> positions;
};
struct TokensEvent {
  RequestKey key = 0;
  TokenRun run;
};
struct PreemptedEvent {
  RequestKey key = 0;
};
struct ChoiceEndedEvent {
  RequestKey key = 0;
  ChoiceEnding ending;
};
struct FinishedEvent {
  RequestKey key = 0;
  absl::Status status;
  Usage usage;
  bool bad_logits = false;  // ended for logits that are not finite
};
struct ReservedEvent {
  RemoteReservation reservation;
};
struct WithdrawnEvent {
  RequestKey key = 0;
  absl::Status cause;
};
struct ChunkDoneEvent {
  RequestKey key = 0;
  uint64_t step = 0;
};
struct FirstTokensEvent {
  RequestKey key = 0;
  FirstTokens first;
};
struct PrefillFailedEvent {
  RequestKey key = 0;
  absl::Status cause;
};

using SchedulerEvent =
    std::variant<StartedEvent, PromptLogprobsEvent, TokensEvent, PreemptedEvent,
                 ChoiceEndedEvent, FinishedEvent, ReservedEvent, WithdrawnEvent,
                 ChunkDoneEvent, FirstTokensEvent, PrefillFailedEvent>;

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_SCHEDULER_EVENT_H_
