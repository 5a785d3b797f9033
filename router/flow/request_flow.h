#ifndef ROUTER_FLOW_REQUEST_FLOW_H_
#define ROUTER_FLOW_REQUEST_FLOW_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/inference.pb.h"
#include "router/cluster/served_model.h"

namespace sluice::router {

// Where a request came in; a label of metrics and of the request line.
enum class Surface { kNative, kOpenAi };

// Why a request is ended from outside; a label of metrics.
enum class CancelCause { kClient, kDeadline, kSlowReader, kAdmin, kShutdown };

// The most a surface gathers of one answer that is no stream.
inline constexpr uint64_t kMaxGatheredBytes = 64u << 20;
// One log probability with its token's text as JSON, about.
inline constexpr uint64_t kJsonLogprobBytes = 96;

// A request as a surface hands it over. Checks, defaults, tokenisation and the
// chat template are the flow's: a surface only fills this in.
struct GenerateCall {
  // As on the native API. `request_id` empty: the router makes one.
  v1::GenerateRequest request;
  Surface surface = Surface::kNative;
  // The client reads a stream; only for the request line.
  bool stream = true;
  // Smallest time limit the client gave, from `received_us` on.
  std::optional<int64_t> timeout_ms;
  // Monotonic clock at the first byte of the request; 0: now.
  int64_t received_us = 0;
  // Text input: unset means true. Chat input: unset means false.
  std::optional<bool> add_special_tokens;
  bool add_generation_prompt = true;    // chat input
  bool continue_final_message = false;  // chat input
  // Not 0: the surface keeps the answer until its end, so the flow ends
  // RESOURCE_EXHAUSTED, reason ANSWER_TOO_LARGE, when it has grown past about
  // this many bytes.
  uint64_t max_answer_bytes = 0;
  // Upper bound of the prompt's log probabilities in bytes as this surface
  // sends them, all copies together; over it kInvalidArgument. 0: none.
  uint64_t max_prompt_logprobs_bytes = 0;
  // Labels for the log only.
  std::string client_request_id;  // X-Request-Id, if valid
  std::string trace_id;           // 32 hex digits of traceparent
  std::string user_hash;
  // Not OK: the surface itself found the request faulty. The flow then only
  // ends with it, so that it is counted and logged like any other.
  absl::Status rejected;
};

// The start of the answer: every check is passed and the workers admitted it.
struct StartedEvent {
  v1::Started started;  // complete but for resume_token
  std::shared_ptr<const ServedModel> model;
  // Token ids of the prompt; live as long as the flow.
  const std::vector<uint32_t>* prompt_ids = nullptr;
};

// The final status. Every flow that was started gets exactly one.
struct EndEvent {
  // With base/grpc_status.h facts: a reason for programs (QUEUE_FULL,
  // CONTEXT_LENGTH_EXCEEDED, UNSUPPORTED_PARAMETER, SLOW_READER, ...) and a
  // retry delay if trying again may help.
  absl::Status status;
  // Name of the offending request field, if one is to blame.
  std::string param;
  v1::RequestEnd usage;  // timing is always filled in
};

// Receives one flow's output. Calls come one at a time, from any thread, and
// hold no lock, so a listener may call the flow from inside; it must not
// block. Order: OnStarted, then per choice OnDelta* OnChoiceEnd (choices
// interleave), then OnEnd; an error may replace any rest by OnEnd alone.
class FlowListener {
 public:
  virtual ~FlowListener() = default;
  virtual void OnStarted(const StartedEvent& event) = 0;
  // `text` is final: cut at stop strings, whole code points, special and stop
  // tokens left out. Tokens come as soon as they are known, so text may lag
  // behind them. Owes one Flow::Acknowledge().
  virtual void OnDelta(v1::TokenDelta delta) = 0;
  virtual void OnChoiceEnd(const v1::ChoiceEnd& end) = 0;
  virtual void OnEnd(const EndEvent& end) = 0;
};

// One request's state machine: owns its attempts on workers and keeps prompt
// ids, seed, sampling and every token per choice. All methods are thread-safe
// and never block; they may be called at any time, also after the end.
class Flow {
 public:
  virtual ~Flow() = default;
  // Begins; call once, after the listener can be called. Checks and tokenises
  // on the calling thread, and may call the listener before it returns.
  virtual void Start() = 0;
  // The reader is done with `num_deltas` deltas. A flow with 1024 deltas or
  // 256 KiB not acknowledged stops reading its worker; after
  // stream.stall_timeout_ms without progress it ends RESOURCE_EXHAUSTED,
  // reason SLOW_READER.
  virtual void Acknowledge(uint32_t num_deltas) = 0;
  // Ends the flow (OnEnd with CANCELLED) and frees it on every worker. No
  // effect once it has ended.
  virtual void Cancel(CancelCause cause) = 0;
  // 1..128 of [A-Za-z0-9._-]; ours, or the one of the request.
  virtual const std::string& request_id() const = 0;
};

struct ModelStatus {
  std::shared_ptr<const ServedModel> model;
  // An admissible path exists: a MIXED worker, or a linked pair.
  bool ready = false;
};

struct Readiness {
  // Subset of: starting, no_path, draining. Empty: ready.
  std::vector<std::string> reasons;
  bool ready() const { return reasons.empty(); }
};

// The router as its surfaces see it. Thread-safe.
class Router {
 public:
  virtual ~Router() = default;
  virtual std::shared_ptr<Flow> NewFlow(
      GenerateCall call, std::shared_ptr<FlowListener> listener) = 0;
  // Cancels a live flow by its request id; false: unknown.
  virtual bool Cancel(absl::string_view request_id, CancelCause cause) = 0;
  // `name` empty: the only model. kNotFound: no such model; kUnavailable: no
  // worker has been heard of yet; kInvalidArgument: empty and several exist.
  virtual absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(
      absl::string_view name) const = 0;
  // Every model ever heard of, by name.
  virtual std::vector<ModelStatus> ListModels() const = 0;
  virtual Readiness GetReadiness() const = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_REQUEST_FLOW_H_
