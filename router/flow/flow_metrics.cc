#include "router/flow/flow_metrics.h"

#include "absl/strings/ascii.h"
#include "base/grpc_status.h"
#include "base/log.h"

namespace sluice::router {
namespace {

constexpr absl::string_view kStages[] = {"parse",     "template", "tokenize",
                                         "queue",     "route",    "dispatch",
                                         "detokenize"};
constexpr absl::string_view kPhases[] = {"queue", "prefill", "transfer",
                                         "decode"};
constexpr absl::string_view kOutcomes[] = {"ok",    "cancelled", "refused",
                                           "reset", "silent",    "failed"};

// The fast buckets, and on to what a queue may take.
constexpr double kStageBuckets[] = {
    10e-6, 25e-6, 50e-6, .0001, .00025, .0005, .001, .0025,
    .005,  .01,   .025,  .05,   .1,     .25,   .5,   1,
    2.5,   5,     10,    30,    60,     120,   300};  // seconds

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

constexpr absl::string_view kBadInputs[] = {"invalid", "context_length",
                                            "unsupported", "unknown_model",
                                            "duplicate_id"};

// One of kBadInputs, or "" where the client is not to blame.
absl::string_view BadInputReason(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ReasonOf(status) == "CONTEXT_LENGTH_EXCEEDED" ? kBadInputs[1]
                                                           : kBadInputs[0];
    case absl::StatusCode::kUnimplemented:
      return kBadInputs[2];
    case absl::StatusCode::kNotFound:
      return kBadInputs[3];
    case absl::StatusCode::kAlreadyExists:
      return kBadInputs[4];
    default:
      return "";
  }
}

// A name a client made up must not become a label.
absl::string_view ModelLabel(const std::string& model) {
  return model.empty() ? absl::string_view("unknown")
                       : absl::string_view(model);
}

}  // namespace

absl::string_view SurfaceName(Surface surface) {
  return surface == Surface::kNative ? "native" : "openai";
}

absl::string_view CauseName(CancelCause cause) {
  switch (cause) {
    case CancelCause::kClient:
      return "client";
    case CancelCause::kDeadline:
      return "deadline";
    case CancelCause::kSlowReader:
      return "slow_reader";
    case CancelCause::kAdmin:
      return "admin";
    case CancelCause::kShutdown:
      return "shutdown";
  }
  return "unknown";
}

std::string CodeName(absl::StatusCode code) {
  return absl::AsciiStrToLower(absl::StatusCodeToString(code));
}

FlowMetrics::RequestCells::RequestCells(MetricRegistry& registry)
    : requests(registry.AddCounterFamily("sluice_router_requests_total",
                                         "One per final status.",
                                         {"surface", "model", "code"})),
      request_seconds(registry.AddHistogramFamily(
          "sluice_router_request_seconds", "First byte in to last byte out.",
          kLatencyBuckets, {"model", "surface"})),
      ttft_seconds(registry.AddHistogramFamily(
          "sluice_router_ttft_seconds", "First byte in to first token out.",
          kLatencyBuckets, {"model", "surface"})),
      itl_seconds(registry.AddHistogramFamily(
          "sluice_router_itl_seconds", "Between token writes of a choice.",
          kLatencyBuckets, {"model", "surface"})),
      stage_seconds(registry.AddHistogramFamily(
          "sluice_router_stage_seconds", "Time of one stage of a request.",
          kStageBuckets, {"stage"})),
      inflight(registry.AddGaugeFamily("sluice_router_inflight_requests",
                                       "Requests by phase.",
                                       {"model", "phase"})),
      goodput(registry.AddCounterFamily(
          "sluice_router_goodput_total",
          "Requests that met their deadline and ttft deadline.", {"model"})),
      match_tokens(registry.AddHistogramFamily(
          "sluice_router_prefix_match_tokens",
          "Prompt tokens predicted to be cached.", kTokensBuckets, {"model"})),
      bad_input(registry.AddCounterFamily(
          "sluice_router_bad_input_total",
          "Requests refused because of what they say.",
          {"surface", "reason"})) {
  stage_seconds.CreateAll({{std::begin(kStages), std::end(kStages)}});
  bad_input.CreateAll(
      {{"native", "openai"}, {std::begin(kBadInputs), std::end(kBadInputs)}});
}

FlowMetrics::FlowCells::FlowCells(MetricRegistry& registry)
    : rejections(registry.AddCounterFamily("sluice_router_rejections_total",
                                           "Refused before dispatch.",
                                           {"model", "reason"})),
      attempts(registry.AddCounterFamily("sluice_router_attempts_total",
                                         "Ended dispatches to a worker.",
                                         {"role", "outcome"})),
      cancels(registry.AddCounterFamily("sluice_router_cancels_total",
                                        "Requests ended from outside.",
                                        {"cause"})),
      cancel_seconds(registry.AddHistogram(
          "sluice_router_cancel_seconds",
          "From a cancel until its worker streams are closed.", kFastBuckets)),
      routes(registry.AddCounterFamily("sluice_router_route_total",
                                       "Choices by their reason.",
                                       {"policy", "reason"})),
      unknown_fields(registry.AddCounterFamily(
          "sluice_router_unknown_fields_total",
          "Messages with fields this build does not know.", {"message"})),
      unencodable(registry.AddCounter("sluice_router_unencodable_bytes_total",
                                      "Input bytes that no token covers.")),
      buffer_bytes(registry.AddGauge("sluice_router_stream_buffer_bytes",
                                     "Not yet taken by readers.")),
      slow_readers(registry.AddGauge("sluice_router_slow_readers",
                                     "Streams at their bound now.")),
      replay_log_bytes(registry.AddGauge("sluice_router_replay_log_bytes",
                                         "Tokens kept for live requests.")) {
  attempts.CreateAll({{"mixed", "prefill", "decode"},
                      {std::begin(kOutcomes), std::end(kOutcomes)}});
  cancels.CreateAll(
      {{"client", "deadline", "slow_reader", "admin", "shutdown"}});
  unknown_fields.CreateAll(
      {{"GenerateRequest", "WorkerReport", "WorkerEvent"}});
}

FlowMetrics::FlowMetrics(MetricRegistry& registry)
    : request_(registry), flow_(registry) {}

void FlowMetrics::OnFinal(const RequestRecord& record) {
  const absl::string_view model = ModelLabel(record.model);
  const absl::string_view surface = SurfaceName(record.surface);
  request_.requests.With({surface, model, CodeName(record.status.code())})
      .Add();
  request_.request_seconds.With({model, surface})
      .Observe(Seconds(record.total_us));
  if (record.ttft_us >= 0) {
    request_.ttft_seconds.With({model, surface})
        .Observe(Seconds(record.ttft_us));
  }
  if (record.status.ok()) request_.goodput.With({model}).Add();
  if (const absl::string_view reason = BadInputReason(record.status);
      !reason.empty()) {
    request_.bad_input.With({surface, reason}).Add();
  }
  if (record.attempts > 0) {
    request_.match_tokens.With({model}).Observe(record.predicted_cached_tokens);
  }
  OnStage(Stage::kParse, record.parse_us);
  OnStage(Stage::kTemplate, record.template_us);
  OnStage(Stage::kTokenize, record.tokenize_us);
  OnStage(Stage::kQueue, record.queue_us);
  OnStage(Stage::kRoute, record.route_us);
  OnStage(Stage::kDispatch, record.dispatch_us);
  OnStage(Stage::kDetokenize, record.detokenize_us);
  LogRequest(record);
}

void FlowMetrics::OnStage(Stage stage, int64_t us) {
  if (us < 0) return;
  request_.stage_seconds.With({kStages[static_cast<int>(stage)]})
      .Observe(Seconds(us));
}

void FlowMetrics::OnPhase(const std::string& model, Phase phase, int by) {
  request_.inflight.With({ModelLabel(model), kPhases[static_cast<int>(phase)]})
      .Add(by);
}

void FlowMetrics::OnRoute(absl::string_view policy, RouteReason reason) {
  flow_.routes.With({policy, ReasonName(reason)}).Add();
}

void FlowMetrics::OnRejection(const std::string& model,
                              absl::string_view reason) {
  flow_.rejections.With({ModelLabel(model), reason}).Add();
}

void FlowMetrics::OnAttempt(WorkerRole role, AttemptOutcome outcome) {
  flow_.attempts.With({RoleName(role), kOutcomes[static_cast<int>(outcome)]})
      .Add();
}

void FlowMetrics::OnCancelDone(int64_t us) {
  flow_.cancel_seconds.Observe(Seconds(us));
}

void FlowMetrics::OnUnknownFields(absl::string_view message) {
  flow_.unknown_fields.With({message}).Add();
}

Histogram& FlowMetrics::ItlOf(const std::string& model, Surface surface) {
  return request_.itl_seconds.With({ModelLabel(model), SurfaceName(surface)});
}

void LogRequest(const RequestRecord& r) {
  const auto ms = [](int64_t us) { return static_cast<double>(us) / 1000; };
  std::vector<LogField> fields = {{"request_id", r.request_id},
                                  {"surface", SurfaceName(r.surface)},
                                  {"model", r.model},
                                  {"code", absl::string_view()},
                                  {"finish_reasons", r.finish_reasons},
                                  {"prompt_tokens", r.prompt_tokens},
                                  {"cached_tokens", r.cached_tokens},
                                  {"completion_tokens", r.completion_tokens},
                                  {"choices", r.choices},
                                  {"stream", r.stream},
                                  {"attempts", r.attempts},
                                  {"failovers", 0},
                                  {"prefill_instance", r.prefill_instance},
                                  {"decode_instance", r.decode_instance},
                                  {"total_ms", ms(r.total_us)},
                                  {"gap_max_ms", ms(r.gap_max_us)},
                                  {"transfer_bytes", r.transfer_bytes}};
  const std::string code = CodeName(r.status.code());
  fields[3] = {"code", code};
  const auto add_stage = [&](absl::string_view key, int64_t us) {
    if (us >= 0) fields.push_back({key, ms(us)});
  };
  add_stage("ttft_ms", r.ttft_us);
  add_stage("parse_ms", r.parse_us);
  add_stage("template_ms", r.template_us);
  add_stage("tokenize_ms", r.tokenize_us);
  add_stage("queue_ms", r.queue_us);
  add_stage("route_ms", r.route_us);
  add_stage("dispatch_ms", r.dispatch_us);
  add_stage("detokenize_ms", r.detokenize_us);
  const auto add_text = [&](absl::string_view key, const std::string& text) {
    if (!text.empty()) fields.push_back({key, text});
  };
  if (r.transfer_bytes > 0) fields.push_back({"transfer_ms", r.transfer_ms});
  add_text("transfer_transport", r.transfer_transport);
  add_text("route_reason", r.route_reason);
  add_text("client_request_id", r.client_request_id);
  add_text("trace_id", r.trace_id);
  add_text("user_hash", r.user_hash);
  add_text("labels", r.labels);
  const std::string cause(r.status.message());
  add_text("cause", cause);
  Log(kInfo, "request", fields);
}

}  // namespace sluice::router
