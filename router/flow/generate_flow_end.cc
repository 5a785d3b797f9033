// How streams, attempts and the flow itself end.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/log.h"
#include "router/flow/generate_flow.h"

namespace sluice::router {
namespace {

constexpr uint32_t kMaxTries = 4;  // dispatches of one request (N_attempt)
constexpr int64_t kRefusedPauseUs = 50'000;  // doubles with each refusal

// Nothing the worker said: its connection broke.
bool IsTransportFailure(const absl::Status& status) {
  if (!ReasonOf(status).empty()) return false;
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kCancelled ||
         status.code() == absl::StatusCode::kUnknown;
}

// Neither the request nor the load explains it.
bool IsWorkersFault(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInternal ||
         status.code() == absl::StatusCode::kUnknown ||
         status.code() == absl::StatusCode::kDataLoss;
}

}  // namespace

// --- ends of streams

void GenerateFlow::Handle(const StreamEndItem& item) {
  --num_open_streams_;
  Attempt* attempt = item.stream == decode_.stream    ? &decode_
                     : item.stream == prefill_.stream ? &prefill_
                                                      : nullptr;
  if (attempt == nullptr || ended_) {
    if (attempt != nullptr) attempt->stream = nullptr;
    MaybeRetire();
    return;
  }
  attempt->stream = nullptr;
  services_.admission->Release(std::exchange(attempt->spend, 0));
  if (attempt == &decode_) {
    HandleDecodeEnd(item.status);
  } else {
    HandlePrefillEnd(item.status);
  }
  MaybeRetire();
}

void GenerateFlow::HandleDecodeEnd(const absl::Status& status) {
  if (!status.ok()) {
    FailAttempt(decode_, status);
  } else if (answer_.all_ended()) {
    CountAttempt(decode_, AttemptOutcome::kOk);
    End(absl::OkStatus());
  } else {
    CountAttempt(decode_, AttemptOutcome::kFailed);
    BlameWorker(decode_, "early end");
    End(absl::InternalError("a worker ended its answer early"));
  }
}

void GenerateFlow::HandlePrefillEnd(const absl::Status& status) {
  if (status.ok()) {
    CountAttempt(prefill_, AttemptOutcome::kOk);
    if (!started_) {
      End(absl::InternalError("a worker ended the prompt's work early"));
    }
    return;
  }
  // Once the cache is handed over the decode worker goes on alone; and when
  // the hand-over failed, it is the decode worker who says how it ends.
  if (prefill_done_ || record_.ttft_us >= 0) {
    CountAttempt(prefill_, AttemptOutcome::kFailed);
    // It never said what its cache held: the decode worker computes it all.
    if (!prompt_admitted_) {
      prompt_admitted_ = true;
      MaybeStart();
    }
    return;
  }
  FailAttempt(prefill_, status);
}

bool GenerateFlow::MayRetry(const Attempt& attempt,
                            const absl::Status& status) const {
  // Nothing has been computed for the client yet.
  if (attempt.admitted || started_ || num_dispatches_ + 1 >= kMaxTries) {
    return false;
  }
  return status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kUnavailable ||
         IsTransportFailure(status);
}

void GenerateFlow::FailAttempt(const Attempt& failed,
                               const absl::Status& status) {
  const Attempt attempt = failed;
  const bool transport = IsTransportFailure(status);
  const bool refused = !transport && !attempt.admitted;
  CountAttempt(attempt, transport ? AttemptOutcome::kReset
                        : refused ? AttemptOutcome::kRefused
                                  : AttemptOutcome::kFailed);
  if (!transport && IsWorkersFault(status)) BlameWorker(attempt, "error");
  if (!MayRetry(attempt, status)) {
    End(FinalStatus(attempt, status));
    return;
  }
  ++num_dispatches_;
  Abandon(decode_, "replaced", AttemptOutcome::kCancelled);
  Abandon(prefill_, "replaced", AttemptOutcome::kCancelled);
  services_.admission->Release(std::exchange(planned_prefill_spend_, 0));
  planned_prefill_ = nullptr;
  grant_view_.reset();
  prompt_admitted_ = false;
  have_prompt_logprobs_ = false;
  prefill_done_ = false;
  Log(kInfo, "attempt replaced",
      {{"request_id", request_id_},
       {"attempt", record_.attempts},
       {"peer", attempt.instance},
       {"cause", status.message()}});
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    // Full now: it may have room in a moment, and others may be as full.
    retry_at_us_ = NowUs() + (kRefusedPauseUs << (num_dispatches_ - 1));
    SetPhase(Phase::kQueue);
    ScheduleTimer();
    return;
  }
  route_.avoid.push_back(attempt.instance);
  EnterQueue();
}

// What a client may know of a failure.
absl::Status GenerateFlow::FinalStatus(const Attempt& attempt,
                                       const absl::Status& status) const {
  if (IsTransportFailure(status)) {
    return WithRetry(WithReason(absl::UnavailableError(absl::StrCat(
                                    "worker ", attempt.instance, " was lost")),
                                "WORKER_LOST"),
                     1000);
  }
  if (status.code() == absl::StatusCode::kUnavailable ||
      status.code() == absl::StatusCode::kResourceExhausted) {
    return RetryDelayMs(status).has_value() ? status : WithRetry(status, 1000);
  }
  if (status.code() == absl::StatusCode::kFailedPrecondition ||
      status.code() == absl::StatusCode::kAborted) {
    // Between router and worker only: nothing the client could mend.
    return WithReason(absl::UnavailableError(absl::StrCat(
                          "worker ", attempt.instance, " could not go on")),
                      "WORKER_REFUSED");
  }
  return status;
}

// Its stream is no attempt's any more; the worker is told to free it.
void GenerateFlow::Abandon(Attempt& attempt, const std::string& cause,
                           AttemptOutcome outcome) {
  services_.admission->Release(std::exchange(attempt.spend, 0));
  if (attempt.stream != nullptr) {
    CountAttempt(attempt, outcome);
    attempt.stream->Cancel(cause);
    if (std::exchange(attempt.owes_next, false)) attempt.stream->Next();
  }
  attempt = Attempt{};
}

void GenerateFlow::Handle(const LostItem& item) {
  if (ended_) return;
  for (Attempt* attempt : {&decode_, &prefill_}) {
    if (attempt->stream == nullptr || attempt->instance != item.instance ||
        attempt->generation != item.generation) {
      continue;
    }
    if (attempt == &prefill_ && record_.ttft_us >= 0) continue;
    const Attempt lost = *attempt;
    Abandon(*attempt, "silent", AttemptOutcome::kSilent);
    End(FinalStatus(lost, absl::UnavailableError("silent")));
    return;
  }
}

void GenerateFlow::Handle(CancelItem item) {
  if (ended_) return;
  absl::Status status =
      absl::CancelledError(absl::StrCat("cancelled: ", CauseName(item.cause)));
  if (item.cause == CancelCause::kShutdown) {
    status = WithRetry(
        WithReason(absl::UnavailableError("the router is shutting down"),
                   "DRAINING"),
        1000);
  }
  CancelWith(item.cause, status);
}

void GenerateFlow::CancelWith(CancelCause cause, const absl::Status& status) {
  services_.metrics->OnCancel(cause);
  cancelled_at_us_ = NowUs();
  End(status);
}

void GenerateFlow::Handle(TimerItem item) {
  timer_.reset();
  if (ended_) {
    for (Attempt* attempt : {&decode_, &prefill_}) {
      if (attempt->stream != nullptr) attempt->stream->Cancel("ended");
    }
    return;
  }
  if (item.now_us >= deadline_us_) {
    CancelWith(CancelCause::kDeadline,
               absl::DeadlineExceededError("the deadline has passed"));
    return;
  }
  if (ttft_deadline_us_ != 0 && item.now_us >= ttft_deadline_us_) {
    CancelWith(CancelCause::kDeadline,
               absl::DeadlineExceededError("no token before ttft_deadline_ms"));
    return;
  }
  if (!unread_bytes_.empty() && item.now_us - reader_progress_us_ >=
                                    services_.limits.stall_timeout_ms * 1000) {
    CancelWith(
        CancelCause::kSlowReader,
        WithReason(absl::ResourceExhaustedError("the reader made no progress"),
                   "SLOW_READER"));
    return;
  }
  if (retry_at_us_ != 0 && item.now_us >= retry_at_us_) EnterQueue();
  if (!ended_) ScheduleTimer();
}

// --- the end

void GenerateFlow::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  if (queue_id_ != 0) services_.admission->Leave(queue_id_);
  services_.admission->Release(std::exchange(planned_prefill_spend_, 0));
  const std::string cause = status.ok() ? "stop" : CodeName(status.code());
  for (Attempt* attempt : {&decode_, &prefill_}) {
    services_.admission->Release(std::exchange(attempt->spend, 0));
    if (attempt->stream == nullptr) continue;
    CountAttempt(*attempt, status.ok() ? AttemptOutcome::kOk
                                       : AttemptOutcome::kCancelled);
    // A stream whose worker has said its last word closes by itself.
    const bool closes =
        status.ok() && (attempt == &decode_ ? decode_done_ : prefill_done_);
    if (!closes) attempt->stream->Cancel(cause);
    if (std::exchange(attempt->owes_next, false)) attempt->stream->Next();
  }
  FillRecord(status);
  services_.metrics->OnFinal(record_);
  SetPhase(std::nullopt);
  services_.metrics->buffer_bytes().Add(
      -static_cast<double>(unread_total_bytes_));
  services_.metrics->replay_log_bytes().Add(
      -static_cast<double>(replay_bytes_));
  if (counted_slow_) services_.metrics->slow_readers().Add(-1);
  EndEvent event{
      .status = status, .param = BlamedField(status), .usage = MakeUsage()};
  const std::shared_ptr<FlowListener> listener = std::move(listener_);
  listener->OnEnd(event);
  if (num_open_streams_ > 0) ScheduleTimer();
  MaybeRetire();
}

void GenerateFlow::FillRecord(const absl::Status& status) {
  record_.status = status;
  record_.cached_tokens = cached_tokens_;
  record_.completion_tokens = answer_.num_tokens();
  record_.finish_reasons = answer_.FinishReasons();
  record_.detokenize_us = record_.ttft_us >= 0 ? detokenize_us_ : -1;
  record_.total_us = NowUs() - call_.received_us;
  record_.transfer_bytes = worker_timing_.transfer_bytes();
  record_.transfer_ms = worker_timing_.transfer_ms();
  record_.transfer_transport = worker_timing_.transfer_transport();
}

v1::RequestEnd GenerateFlow::MakeUsage() const {
  v1::RequestEnd usage;
  usage.set_prompt_tokens(record_.prompt_tokens);
  usage.set_cached_tokens(cached_tokens_);
  usage.set_completion_tokens(record_.completion_tokens);
  v1::Timing& timing = *usage.mutable_timing();
  timing = worker_timing_;
  const auto ms = [](int64_t us) {
    return static_cast<uint32_t>(std::max<int64_t>(us, 0) / 1000);
  };
  timing.set_queue_ms(ms(record_.queue_us));
  timing.set_ttft_ms(ms(record_.ttft_us));
  timing.set_total_ms(ms(record_.total_us));
  return usage;
}

void GenerateFlow::MaybeRetire() {
  if (!ended_ || num_open_streams_ > 0) return;
  if (timer_.has_value()) services_.timers->Cancel(*timer_);
  timer_.reset();
  if (cancelled_at_us_ != 0) {
    services_.metrics->OnCancelDone(NowUs() -
                                    std::exchange(cancelled_at_us_, 0));
  }
  if (std::exchange(enrolled_, false)) services_.retire(request_id_);
}

void GenerateFlow::SetPhase(std::optional<Phase> phase) {
  if (phase_ == phase) return;
  if (phase_.has_value()) {
    services_.metrics->OnPhase(record_.model, *phase_, -1);
  }
  if (phase.has_value()) services_.metrics->OnPhase(record_.model, *phase, 1);
  phase_ = phase;
}

void GenerateFlow::CountAttempt(const Attempt& attempt,
                                AttemptOutcome outcome) {
  services_.metrics->OnAttempt(attempt.role, outcome);
  switch (outcome) {
    case AttemptOutcome::kOk:
      services_.ejections->OnSuccess(attempt.instance, attempt.generation);
      break;
    case AttemptOutcome::kReset:
      BlameWorker(attempt, "reset");
      break;
    case AttemptOutcome::kSilent:
      BlameWorker(attempt, "silent");
      break;
    case AttemptOutcome::kCancelled:
    case AttemptOutcome::kRefused:
    case AttemptOutcome::kFailed:  // whose fault, the status says
      break;
  }
}

void GenerateFlow::BlameWorker(const Attempt& attempt,
                               absl::string_view cause) {
  services_.ejections->OnFailure(attempt.instance, attempt.generation, cause);
}

}  // namespace sluice::router
