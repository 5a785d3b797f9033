#include "router/flow/generate_flow.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "router/route/block_hash.h"

namespace sluice::router {
namespace {

constexpr uint32_t kOrphanTtlMs = 1000;
// Blocks promised to a request beyond its prompt; the rest is found as it
// grows.
constexpr uint32_t kReserveTokensCap = 256;
// Streams of an ended request that have not closed by themselves are reset.
constexpr int64_t kLingerUs = 5'000'000;

std::string MakeRequestId(const v1::GenerateRequest& request) {
  return IsRequestId(request.request_id()) ? request.request_id()
                                           : RandomHexId(16);
}

std::string JoinLabels(const v1::GenerateRequest& request) {
  std::map<std::string, std::string> sorted(request.labels().begin(),
                                            request.labels().end());
  std::string text;
  for (const auto& [key, value] : sorted) {
    absl::StrAppend(&text, text.empty() ? "" : ",", key, "=", value);
  }
  return text;
}

uint32_t CostBytes(const v1::TokenDelta& delta) {
  return static_cast<uint32_t>(delta.ByteSizeLong());
}

Placement PlacementOf(v1::RoutingHints::Placement placement) {
  switch (placement) {
    case v1::RoutingHints::AGGREGATED:
      return Placement::kAggregated;
    case v1::RoutingHints::DISAGGREGATED:
      return Placement::kDisaggregated;
    default:
      return Placement::kAuto;
  }
}

}  // namespace

GenerateFlow::GenerateFlow(const FlowServices& services, GenerateCall call,
                           std::shared_ptr<FlowListener> listener)
    : services_(services),
      request_id_(MakeRequestId(call.request)),
      call_(std::move(call)),
      listener_(std::move(listener)) {
  if (call_.received_us == 0) call_.received_us = NowUs();
  record_.request_id = request_id_;
  record_.client_request_id = call_.client_request_id;
  record_.trace_id = call_.trace_id;
  record_.user_hash = call_.user_hash;
  record_.surface = call_.surface;
  record_.stream = call_.stream;
  record_.labels = JoinLabels(call_.request);
}

GenerateFlow::~GenerateFlow() = default;

void GenerateFlow::Post(Item item) {
  const std::shared_ptr<GenerateFlow> self = shared_from_this();
  strand_.Push(std::move(item), [this](Item next) {
    std::visit([this](auto& i) { Handle(std::move(i)); }, next);
  });
}

// --- start

void GenerateFlow::Handle(StartItem) {
  if (ended_ || enrolled_) return;
  record_.parse_us = NowUs() - call_.received_us;
  if (absl::Status status = Begin(); !status.ok()) {
    End(status);
    return;
  }
  EnterQueue();
}

absl::Status GenerateFlow::Begin() {
  // A refused request is counted under its model too, if that exists.
  if (auto known = services_.find_model(call_.request.model()); known.ok()) {
    record_.model = (*known)->name();
  }
  RETURN_IF_ERROR(call_.rejected);
  RETURN_IF_ERROR(CheckCall(call_));
  RETURN_IF_ERROR(services_.enroll(shared_from_this()));
  enrolled_ = true;
  ApplyDeadline();
  ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model,
                   services_.find_model(call_.request.model()));
  record_.model = model->name();
  ASSIGN_OR_RETURN(prepared_,
                   Prepare(call_, std::move(model), *services_.clock));
  ASSIGN_OR_RETURN(answer_,
                   Answer::Create(prepared_.num_choices, prepared_.text));
  record_.choices = prepared_.num_choices;
  record_.prompt_tokens = static_cast<uint32_t>(prepared_.prompt_ids.size());
  record_.template_us = prepared_.template_us;
  record_.tokenize_us = prepared_.tokenize_us;
  if (prepared_.unencodable_bytes > 0) {
    services_.metrics->OnUnencodable(prepared_.unencodable_bytes);
  }
  // The texts have become tokens.
  call_.request.clear_input();
  itl_ = &services_.metrics->ItlOf(record_.model, record_.surface);
  replay_bytes_ = prepared_.prompt_ids.size() * sizeof(uint32_t);
  services_.metrics->replay_log_bytes().Add(static_cast<double>(replay_bytes_));
  if (NowUs() >= deadline_us_) {
    return absl::DeadlineExceededError("the deadline has passed");
  }
  MakeRoute();
  return absl::OkStatus();
}

void GenerateFlow::ApplyDeadline() {
  const FlowLimits& limits = services_.limits;
  const int64_t limit_ms =
      std::min(call_.timeout_ms.value_or(limits.default_duration_ms),
               limits.max_duration_ms);
  deadline_us_ = call_.received_us + limit_ms * 1000;
  if (call_.request.has_ttft_deadline_ms()) {
    ttft_deadline_us_ =
        call_.received_us + int64_t{call_.request.ttft_deadline_ms()} * 1000;
  }
  reader_progress_us_ = NowUs();
  ScheduleTimer();
}

void GenerateFlow::ScheduleTimer() {
  if (timer_.has_value()) services_.timers->Cancel(*timer_);
  int64_t at_us = deadline_us_;
  if (ended_) {
    at_us = NowUs() + kLingerUs;
  } else {
    if (ttft_deadline_us_ != 0) at_us = std::min(at_us, ttft_deadline_us_);
    if (retry_at_us_ != 0) at_us = std::min(at_us, retry_at_us_);
    // Often enough to see a reader that stands still.
    at_us =
        std::min(at_us, NowUs() + services_.limits.stall_timeout_ms * 1000 / 4);
  }
  timer_ = services_.timers->Schedule(at_us, weak_from_this());
}

void GenerateFlow::MakeRoute() {
  const v1::GenerateRequest& request = call_.request;
  const v1::RoutingHints& hints = request.routing();
  route_.model = prepared_.model->name();
  route_.model_digest = prepared_.model->digest();
  route_.prompt_tokens = record_.prompt_tokens;
  uint32_t expected = prepared_.sampling.max_tokens();
  if (hints.has_expected_output_tokens()) {
    expected = std::min(expected, hints.expected_output_tokens());
  }
  route_.reserve_tokens = std::min(expected, kReserveTokensCap);
  route_.num_choices = prepared_.num_choices;
  route_.placement = PlacementOf(hints.placement());
  route_.session_id = hints.session_id();
  route_.avoid.assign(hints.avoid_instances().begin(),
                      hints.avoid_instances().end());
  route_.pin = hints.pin_instance();
  route_.tie_break = RandomU64();
  const bool bypasses_cache = request.cache_salt() == "none" ||
                              prepared_.sampling.has_prompt_logprobs();
  if (bypasses_cache) return;
  // Equal models mostly hash alike: once per kind of block.
  std::map<std::pair<std::string, uint32_t>, std::vector<uint64_t>> hashes;
  const SnapshotRef<ClusterView> view = services_.view();
  for (const WorkerView& worker : view->workers) {
    if (worker.block_tokens == 0 || worker.model != route_.model) continue;
    auto [it, added] =
        hashes.try_emplace({worker.kv_fingerprint, worker.block_tokens});
    if (added) {
      it->second = CacheableBlockHashes(
          {.fingerprint = worker.kv_fingerprint, .salt = request.cache_salt()},
          worker.block_tokens, prepared_.prompt_ids);
    }
    const size_t blocks =
        services_.index->MatchBlocks(worker.instance, it->second);
    if (blocks > 0) {
      route_.cached_tokens[worker.instance] =
          static_cast<uint32_t>(blocks * worker.block_tokens);
    }
  }
}

void GenerateFlow::EnterQueue() {
  retry_at_us_ = 0;
  queued_at_us_ = NowUs();
  SetPhase(Phase::kQueue);
  // The callback may come at any time, but is handled after this item.
  absl::StatusOr<uint64_t> id = services_.admission->Enter(
      {.route = route_,
       .priority = call_.request.priority(),
       .tenant = call_.request.routing().tenant(),
       .deadline_us = deadline_us_,
       .bytes = replay_bytes_ + sizeof(GenerateFlow),
       .on_decided = [self = shared_from_this()](absl::StatusOr<Grant> grant) {
         self->Post(GrantItem{std::move(grant)});
       }});
  if (id.ok()) {
    queue_id_ = *id;
  } else {
    End(id.status());
  }
}

// --- dispatch

void GenerateFlow::Handle(GrantItem item) {
  queue_id_ = 0;
  if (ended_) {
    if (item.grant.ok()) {
      services_.admission->Release(item.grant->decode_spend);
      services_.admission->Release(item.grant->prefill_spend);
    }
    return;
  }
  if (!item.grant.ok()) {
    End(item.grant.status());
    return;
  }
  record_.queue_us =
      std::max<int64_t>(record_.queue_us, 0) + NowUs() - queued_at_us_;
  Dispatch(*item.grant);
}

void GenerateFlow::Dispatch(const Grant& grant) {
  const RouteDecision& decision = grant.decision;
  services_.metrics->OnRoute(services_.policy_name, decision.reason);
  record_.route_reason = std::string(ReasonName(decision.reason));
  record_.route_us = grant.route_us;
  record_.predicted_cached_tokens = decision.cached_tokens;
  record_.decode_instance = decision.decode->instance;
  record_.prefill_instance = decision.prefill != nullptr
                                 ? decision.prefill->instance
                                 : decision.decode->instance;
  numerics_id_ = decision.decode->numerics_id;
  fingerprint_ = absl::StrCat(
      "sluice-",
      absl::BytesToHexString(decision.decode->model_digest.substr(0, 4)), "-",
      numerics_id_);
  dispatched_at_us_ = NowUs();
  SetPhase(Phase::kPrefill);
  grant_view_ = grant.view;
  planned_prefill_ = decision.prefill;
  planned_prefill_spend_ = grant.prefill_spend;
  v1::SubmitRequest request =
      MakeSubmit(decision.prefill != nullptr ? v1::SubmitRequest::PHASE_DECODE
                                             : v1::SubmitRequest::PHASE_BOTH);
  if (decision.prefill != nullptr) {
    request.set_source(decision.prefill->instance);
  }
  decode_ = Submit(*decision.decode, grant.decode_spend, std::move(request));
}

v1::SubmitRequest GenerateFlow::MakeSubmit(v1::SubmitRequest::Phase phase) {
  v1::SubmitRequest request;
  request.set_request_id(request_id_);
  request.set_attempt(++record_.attempts);
  request.set_phase(phase);
  request.mutable_prompt_ids()->Add(prepared_.prompt_ids.begin(),
                                    prepared_.prompt_ids.end());
  *request.mutable_sampling() = prepared_.sampling;
  request.set_seed(prepared_.seed);
  request.set_cache_salt(call_.request.cache_salt());
  request.set_priority(call_.request.priority());
  request.set_deadline_unix_us(static_cast<uint64_t>(
      services_.clock->UnixMicros() + deadline_us_ - NowUs()));
  *request.mutable_speculation() = call_.request.speculation();
  request.set_orphan_ttl_ms(kOrphanTtlMs);
  request.set_router_id(services_.router_id);
  request.set_reserve_tokens(route_.reserve_tokens);
  return request;
}

GenerateFlow::Attempt GenerateFlow::Submit(const WorkerView& worker,
                                           uint64_t spend,
                                           v1::SubmitRequest request) {
  ++num_open_streams_;
  const std::shared_ptr<GenerateFlow> self = shared_from_this();
  return {.stream = WorkerStream::Start(
              worker.link, std::move(request),
              {.on_event =
                   [self](const std::shared_ptr<WorkerStream>& stream) {
                     self->Post(EventItem{stream});
                   },
               .on_end =
                   [self](const std::shared_ptr<WorkerStream>& stream,
                          absl::Status status) {
                     self->Post(StreamEndItem{stream, std::move(status)});
                   }}),
          .instance = worker.instance,
          .generation = worker.generation,
          .role = worker.role,
          .spend = spend};
}

void GenerateFlow::SubmitPrefill(const v1::Ticket& ticket) {
  v1::SubmitRequest request = MakeSubmit(v1::SubmitRequest::PHASE_PREFILL);
  *request.mutable_ticket() = ticket;
  prefill_ = Submit(*planned_prefill_, std::exchange(planned_prefill_spend_, 0),
                    std::move(request));
  planned_prefill_ = nullptr;
  grant_view_.reset();
}

// --- worker events

void GenerateFlow::Handle(const EventItem& item) {
  Attempt* attempt = item.stream == decode_.stream    ? &decode_
                     : item.stream == prefill_.stream ? &prefill_
                                                      : nullptr;
  // A stream of an abandoned attempt, or of an ended flow.
  if (attempt == nullptr || ended_) {
    item.stream->Next();
    return;
  }
  const bool done = TakeEvent(*attempt, item.stream->event());
  if (done || ended_) {
    item.stream->Next();
  } else {
    attempt->owes_next = true;
  }
}

bool GenerateFlow::TakeEvent(Attempt& attempt, v1::WorkerEvent& event) {
  const bool from_decode = &attempt == &decode_;
  switch (event.event_case()) {
    case v1::WorkerEvent::kAdmitted:
      TakeAdmitted(attempt, event.admitted());
      return true;
    case v1::WorkerEvent::kPromptLogprobs:
      prompt_logprobs_.Swap(event.mutable_prompt_logprobs());
      have_prompt_logprobs_ = true;
      MaybeStart();
      return true;
    case v1::WorkerEvent::kDelta:
      if (!from_decode) return true;
      if (!started_) return HoldBack();
      if (ttft_deadline_us_ != 0) ttft_deadline_us_ = 0;
      {
        const int64_t begin_us = NowUs();
        auto step = answer_.Take(std::move(*event.mutable_delta()));
        detokenize_us_ += NowUs() - begin_us;
        TakeStep(std::move(step));
      }
      return !BufferFull();
    case v1::WorkerEvent::kChoiceEnd:
      if (!from_decode) return true;
      if (!started_) return HoldBack();
      TakeStep(answer_.Take(std::move(*event.mutable_choice_end())));
      return !BufferFull();
    case v1::WorkerEvent::kPrefillDone:
      prefill_done_ = true;
      if (record_.ttft_us < 0) SetPhase(Phase::kTransfer);
      return true;
    case v1::WorkerEvent::kEnd:
      TakeUsage(event.end(), from_decode);
      return true;
    case v1::WorkerEvent::kState:
      return true;
    case v1::WorkerEvent::EVENT_NOT_SET:
      services_.metrics->OnUnknownFields("WorkerEvent");
      return true;
  }
  return true;
}

// Output that comes before what OnStarted tells waits for the other worker's
// word; with no other worker it is a broken answer.
bool GenerateFlow::HoldBack() {
  if (planned_prefill_ != nullptr || prefill_.stream != nullptr) return false;
  End(absl::InternalError("a worker's answer could not be used"));
  return true;
}

void GenerateFlow::TakeAdmitted(Attempt& attempt,
                                const v1::Admitted& admitted) {
  attempt.admitted = true;
  services_.admission->Settle(attempt.spend);
  const bool from_decode = &attempt == &decode_;
  if (from_decode && planned_prefill_ != nullptr && admitted.has_ticket()) {
    SubmitPrefill(admitted.ticket());
    return;
  }
  // The worker that computes the prompt: its word on the cache counts.
  if (!from_decode || prefill_.stream == nullptr) {
    if (prompt_admitted_) return;
    prompt_admitted_ = true;
    cached_tokens_ = admitted.cached_tokens();
    record_.dispatch_us = NowUs() - dispatched_at_us_;
    MaybeStart();
  }
}

void GenerateFlow::TakeUsage(const v1::RequestEnd& end, bool from_decode) {
  const v1::Timing& timing = end.timing();
  v1::Timing& sum = worker_timing_;
  sum.set_transfer_bytes(
      std::max(sum.transfer_bytes(), timing.transfer_bytes()));
  sum.set_transfer_ms(std::max(sum.transfer_ms(), timing.transfer_ms()));
  if (!timing.transfer_transport().empty()) {
    sum.set_transfer_transport(timing.transfer_transport());
  }
  if (!from_decode) {
    prefill_done_ = true;
    return;
  }
  decode_done_ = true;
  if (answer_.all_ended()) End(absl::OkStatus());
}

void GenerateFlow::MaybeStart() {
  if (started_ || !prompt_admitted_) return;
  if (prepared_.sampling.has_prompt_logprobs() && !have_prompt_logprobs_) {
    return;
  }
  started_ = true;
  EmitStarted();
  if (!decode_.owes_next || decode_.stream == nullptr || ended_) return;
  // A token that came before the word of the other worker.
  decode_.owes_next = false;
  const std::shared_ptr<WorkerStream> stream = decode_.stream;
  if (TakeEvent(decode_, stream->event()) || ended_) {
    stream->Next();
  } else {
    decode_.owes_next = true;
  }
}

void GenerateFlow::EmitStarted() {
  StartedEvent event;
  event.started.set_prompt_tokens(record_.prompt_tokens);
  event.started.set_cached_tokens(cached_tokens_);
  event.started.set_model(prepared_.model->name());
  event.started.set_fingerprint(fingerprint_);
  event.started.set_numerics_id(numerics_id_);
  if (have_prompt_logprobs_) {
    event.started.mutable_prompt_logprobs()->Swap(&prompt_logprobs_);
  }
  event.model = prepared_.model;
  event.prompt_ids = &prepared_.prompt_ids;
  listener_->OnStarted(event);
}

void GenerateFlow::TakeStep(absl::StatusOr<Answer::Step> step) {
  if (!step.ok()) {
    Log(kError, "worker answer refused",
        {{"request_id", request_id_},
         {"peer", decode_.instance},
         {"cause", step.status().message()}});
    BlameWorker(decode_, "bad answer");
    End(absl::InternalError("a worker's answer could not be used"));
    return;
  }
  if (step->delta.has_value()) EmitDelta(*std::move(step->delta));
  if (ended_) return;
  if (step->end.has_value()) listener_->OnChoiceEnd(*step->end);
  // A stop string that the router found ends the request without the worker.
  if (step->end.has_value() && answer_.all_ended() &&
      step->end->matched_case() == v1::ChoiceEnd::kStopString) {
    End(absl::OkStatus());
  }
}

// Of a surface that gathers: text, ids, and log probabilities as JSON.
absl::Status GenerateFlow::CheckAnswerSize(const v1::TokenDelta& delta) {
  if (call_.max_answer_bytes == 0) return absl::OkStatus();
  answer_bytes_ +=
      delta.text().size() +
      sizeof(uint32_t) * static_cast<size_t>(delta.token_ids_size());
  for (const v1::PositionLogprobs& position : delta.logprobs().positions()) {
    answer_bytes_ +=
        kJsonLogprobBytes * (1 + static_cast<size_t>(position.top_size()));
  }
  if (answer_bytes_ <= call_.max_answer_bytes) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                        "the answer is larger than ", call_.max_answer_bytes,
                        " bytes; ask for a stream")),
                    "ANSWER_TOO_LARGE");
}

void GenerateFlow::EmitDelta(v1::TokenDelta delta) {
  const int64_t now_us = NowUs();
  if (absl::Status status = CheckAnswerSize(delta); !status.ok()) {
    End(status);
    return;
  }
  if (record_.ttft_us < 0) {
    record_.ttft_us = now_us - call_.received_us;
    SetPhase(Phase::kDecode);
  } else {
    itl_->Observe(static_cast<double>(now_us - last_delta_us_) * 1e-6);
    record_.gap_max_us = std::max(record_.gap_max_us, now_us - last_delta_us_);
  }
  last_delta_us_ = now_us;
  if (unread_bytes_.empty()) reader_progress_us_ = now_us;
  const uint32_t bytes = CostBytes(delta);
  unread_bytes_.push_back(bytes);
  unread_total_bytes_ += bytes;
  services_.metrics->buffer_bytes().Add(bytes);
  const double tokens = 4.0 * delta.token_ids_size();
  replay_bytes_ += static_cast<uint64_t>(tokens);
  services_.metrics->replay_log_bytes().Add(tokens);
  if (BufferFull() && !counted_slow_) {
    counted_slow_ = true;
    services_.metrics->slow_readers().Add(1);
  }
  listener_->OnDelta(std::move(delta));
}

bool GenerateFlow::BufferFull() const {
  return unread_bytes_.size() >= services_.limits.max_buffered_deltas ||
         unread_total_bytes_ >= services_.limits.max_buffered_bytes;
}

void GenerateFlow::Handle(AckItem item) {
  if (ended_) return;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < item.num_deltas && !unread_bytes_.empty(); ++i) {
    bytes += unread_bytes_.front();
    unread_bytes_.pop_front();
  }
  unread_total_bytes_ -= bytes;
  services_.metrics->buffer_bytes().Add(-static_cast<double>(bytes));
  reader_progress_us_ = NowUs();
  if (!BufferFull()) ResumeReading();
}

void GenerateFlow::ResumeReading() {
  if (std::exchange(counted_slow_, false)) {
    services_.metrics->slow_readers().Add(-1);
  }
  // Before the start an event waits for something else.
  if (!started_ || !decode_.owes_next || decode_.stream == nullptr) return;
  decode_.owes_next = false;
  decode_.stream->Next();
}

}  // namespace sluice::router
