#ifndef ROUTER_FLOW_FLOW_METRICS_H_
#define ROUTER_FLOW_FLOW_METRICS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/metrics.h"
#include "router/flow/request_flow.h"
#include "router/route/policy.h"

namespace sluice::router {

absl::string_view SurfaceName(Surface surface);  // native, openai
absl::string_view CauseName(CancelCause cause);  // client, deadline, ...
std::string CodeName(absl::StatusCode code);     // invalid_argument, ...

enum class Stage {
  kParse,
  kTemplate,
  kTokenize,
  kQueue,
  kRoute,
  kDispatch,
  kDetokenize,
};

enum class Phase { kQueue, kPrefill, kTransfer, kDecode };

enum class AttemptOutcome {
  kOk,
  kCancelled,
  kRefused,
  kReset,
  kSilent,
  kFailed
};

// What is known of a finished request: its metrics and its log line.
// Durations in microseconds; negative: the stage did not happen.
struct RequestRecord {
  std::string request_id;
  std::string client_request_id;
  std::string trace_id;
  std::string user_hash;
  Surface surface = Surface::kNative;
  std::string model;  // served name; empty: unknown
  absl::Status status;
  bool stream = false;
  uint32_t choices = 0;
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t predicted_cached_tokens = 0;
  uint32_t completion_tokens = 0;
  std::string finish_reasons;  // comma-separated, by choice
  uint32_t attempts = 0;
  std::string prefill_instance;
  std::string decode_instance;
  std::string route_reason;
  std::string labels;  // key=value, comma-separated
  int64_t parse_us = -1;
  int64_t template_us = -1;
  int64_t tokenize_us = -1;
  int64_t queue_us = -1;
  int64_t route_us = -1;
  int64_t dispatch_us = -1;  // from the choice to the last Admitted
  int64_t detokenize_us = -1;
  int64_t ttft_us = -1;
  int64_t gap_max_us = 0;  // between two deltas
  int64_t total_us = 0;
  uint64_t transfer_bytes = 0;
  uint32_t transfer_ms = 0;
  std::string transfer_transport;
};

// The sluice_router_* metrics that requests move. Thread-safe.
class FlowMetrics {
 public:
  explicit FlowMetrics(MetricRegistry& registry);

  // Metrics and the request line; once per request, at its final status.
  void OnFinal(const RequestRecord& record);
  void OnStage(Stage stage, int64_t us);
  void OnPhase(const std::string& model, Phase phase, int by);
  void OnRoute(absl::string_view policy, RouteReason reason);
  void OnRejection(const std::string& model, absl::string_view reason);
  void OnAttempt(WorkerRole role, AttemptOutcome outcome);
  void OnCancel(CancelCause cause) {
    flow_.cancels.With({CauseName(cause)}).Add();
  }
  void OnCancelDone(int64_t us);
  void OnUnencodable(uint64_t bytes) { flow_.unencodable.Add(bytes); }
  // A message with fields this build does not know.
  void OnUnknownFields(absl::string_view message);

  // Cells for the hot path, kept by a flow.
  Histogram& ItlOf(const std::string& model, Surface surface);
  Gauge& buffer_bytes() { return flow_.buffer_bytes; }
  Gauge& slow_readers() { return flow_.slow_readers; }
  Gauge& replay_log_bytes() { return flow_.replay_log_bytes; }

 private:
  struct RequestCells {
    explicit RequestCells(MetricRegistry& registry);
    CounterFamily& requests;
    HistogramFamily& request_seconds;
    HistogramFamily& ttft_seconds;
    HistogramFamily& itl_seconds;
    HistogramFamily& stage_seconds;
    GaugeFamily& inflight;
    CounterFamily& goodput;
    HistogramFamily& match_tokens;
    CounterFamily& bad_input;
  };
  struct FlowCells {
    explicit FlowCells(MetricRegistry& registry);
    CounterFamily& rejections;
    CounterFamily& attempts;
    CounterFamily& cancels;
    Histogram& cancel_seconds;
    CounterFamily& routes;
    CounterFamily& unknown_fields;
    Counter& unencodable;
    Gauge& buffer_bytes;
    Gauge& slow_readers;
    Gauge& replay_log_bytes;
  };

  RequestCells request_;
  FlowCells flow_;
};

// The request line (info): exactly one per request.
void LogRequest(const RequestRecord& record);

}  // namespace sluice::router

#endif  // ROUTER_FLOW_FLOW_METRICS_H_
