#include "worker/engine/engine.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/inbox.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "worker/engine/engine_metrics.h"
#include "worker/engine/request_timeline.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/step_budget.h"

namespace sluice::worker {
namespace {

// An idle engine looks at the clock this often; a nearer deadline wakes it
// earlier.
constexpr int64_t kMaxIdleUs = 50'000;
constexpr double kMeanWeight = 0.1;  // of the newest step
constexpr int64_t kMinRetryHintMs = 100;
constexpr int64_t kMaxRetryHintMs = 30'000;

struct SubmitMessage {
  Request request;
  std::shared_ptr<TokenSink> sink;
};
struct CancelMessage {
  RequestKey key = 0;
  absl::Status cause;
};
struct RemoteReadyMessage {
  RequestKey key = 0;
  FirstTokens first;
};
struct RemoteFailedMessage {
  RequestKey key = 0;
  absl::Status cause;
  bool recompute = false;
};
struct RemoteQuarantinedMessage {
  RequestKey key = 0;
  absl::Status cause;
  bool recompute = false;
};
struct RemoteReleasedMessage {
  RequestKey key = 0;
};
struct ReleaseHeldMessage {
  RequestKey key = 0;
};
struct PauseMessage {
  RequestKey key = 0;
  bool paused = false;
};
struct DrainMessage {};
struct ResetMessage {};
struct StopMessage {};
using Message =
    std::variant<SubmitMessage, CancelMessage, RemoteReadyMessage,
                 RemoteFailedMessage, RemoteQuarantinedMessage,
                 RemoteReleasedMessage, ReleaseHeldMessage, PauseMessage,
                 DrainMessage, ResetMessage, StopMessage>;

absl::string_view Name(CancelState state) {
  static constexpr absl::string_view kNames[] = {
      "unknown",  "waiting", "partial", "running",
      "launched", "remote",  "held",    "finished"};
  return kNames[static_cast<size_t>(state)];
}

double Mean(double mean, double newest) {
  return mean == 0 ? newest : mean + kMeanWeight * (newest - mean);
}

// How much of a step that decodes goes by, of what such a step took so far,
// until the next is launched behind it: what arrives until then is in the next.
constexpr double kAheadPart = 0.75;
constexpr int64_t kShortestWaitUs = 500;

// One token; so is a one-token rest of a prompt.
bool IsDecode(const PlanRow& row) {
  return row.tokens.size() == 1 && row.samples.size() == 1;
}

// The engine thread's state and loop. What arrives while a step runs is handled
// meanwhile, and the next step is launched shortly before it ends, so that the
// ranks never wait for the engine.
class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(const EngineOptions& options, Parts parts,
                 std::unique_ptr<Scheduler> scheduler)
      : options_(options),
        parts_(std::move(parts)),
        scheduler_(std::move(scheduler)),
        step_budget_({.target_us = int64_t{options.step_ms} * 1000,
                      .block_tokens = options.block_tokens,
                      .max_batch_tokens = options.max_batch_tokens}) {
    PublishStats();
  }

  void Run() override;
  void Stop() override { Post(StopMessage{}); }

  void Submit(Request request, std::shared_ptr<TokenSink> sink) override {
    Post(SubmitMessage{std::move(request), std::move(sink)});
  }
  void Cancel(RequestKey key, absl::Status cause) override {
    Post(CancelMessage{key, std::move(cause)});
  }
  void SetPaused(RequestKey key, bool paused) override {
    Post(PauseMessage{key, paused});
  }
  void StartDraining() override { Post(DrainMessage{}); }
  void RemoteReady(RequestKey key, FirstTokens first) override {
    Post(RemoteReadyMessage{key, std::move(first)});
  }
  void RemoteFailed(RequestKey key, absl::Status cause,
                    bool recompute) override {
    Post(RemoteFailedMessage{key, std::move(cause), recompute});
  }
  void RemoteQuarantined(RequestKey key, absl::Status cause,
                         bool recompute) override {
    Post(RemoteQuarantinedMessage{key, std::move(cause), recompute});
  }
  void RemoteReleased(RequestKey key) override {
    Post(RemoteReleasedMessage{key});
  }
  void ReleaseHeld(RequestKey key) override { Post(ReleaseHeldMessage{key}); }
  void ResetPrefixCache() override { Post(ResetMessage{}); }

  SnapshotRef<EngineStats> stats() const override { return published_.Get(); }

 private:
  // A request without a final status.
  struct Live {
    std::shared_ptr<TokenSink> sink;
    RequestTimeline timeline;
  };

  void Post(Message message);
  static void RefuseAfterEnd(SubmitMessage& message);
  int64_t now() const { return parts_.clock->NowMicros(); }

  // False: there was none.
  bool HandleMessages(int64_t wait_us);
  int64_t IdleWaitUs() const;
  void Handle(SubmitMessage& message);
  void Handle(CancelMessage& message);
  void Handle(RemoteReadyMessage& message);
  void Handle(RemoteFailedMessage& message);
  void Handle(RemoteQuarantinedMessage& message);
  void Handle(RemoteReleasedMessage& message) {
    scheduler_->RemoteReleased(message.key);
  }
  void Handle(ReleaseHeldMessage& message);
  void Handle(PauseMessage& message) {
    scheduler_->SetPaused(message.key, message.paused);
  }
  void Handle(DrainMessage&) { scheduler_->StartDraining(); }
  void Handle(ResetMessage&) { scheduler_->ResetPrefixCache(); }
  void Handle(StopMessage&) { stopping_ = true; }

  // A launched step.
  struct Launched {
    std::shared_ptr<const StepPlan> plan;
    bool decodes_only = false;
  };

  bool Turn();
  SchedulePlan PlanNext() const;
  bool LaunchNext();
  void LaunchAhead();
  void Launch(const SchedulePlan& plan);
  void RetireOldest();
  void CountStep(const StepPlan& plan, double seconds);
  void CheckLedger();
  int64_t RetryHintMs() const;
  void CountCancel(CancelState state);
  void CountRecompute(RequestKey key, bool recompute);

  void Deliver();
  void Deliver(StartedEvent& event);
  void Deliver(PromptLogprobsEvent& event);
  void Deliver(TokensEvent& event);
  void Deliver(PreemptedEvent& event);
  void Deliver(ChoiceEndedEvent& event);
  void Deliver(FinishedEvent& event);
  void Deliver(ReservedEvent& event);
  void Deliver(WithdrawnEvent& event);
  void Deliver(ChunkDoneEvent& event);
  void Deliver(FirstTokensEvent& event);
  void Deliver(PrefillFailedEvent& event);
  Live& At(RequestKey key);

  void PublishStats();
  void PublishCacheChanges();
  void End();

  const EngineOptions options_;
  const Parts parts_;

  // Any thread.
  Inbox<Message> inbox_;
  Snapshot<EngineStats> published_;
  Mutex end_mu_;
  bool ended_ ABSL_GUARDED_BY(end_mu_) = false;  // Run() takes no more

  // Engine thread.
  std::unique_ptr<Scheduler> scheduler_;
  StepBudget step_budget_;
  std::deque<Launched> launched_;  // oldest first, at most two
  double decode_seconds_ = 0;      // of a step without prompts
  StepResult spare_;               // memory of a result for the next
  absl::flat_hash_map<RequestKey, Live> live_;
  EngineStats stats_;
  bool stopping_ = false;
  bool checked_ = true;  // the ledger, since the last change
};

// ---- Messages

void ThreadedEngine::Post(Message message) {
  {
    MutexLock lock(end_mu_);
    if (!ended_) {
      inbox_.Push(std::move(message));
      return;
    }
  }
  if (auto* submit = std::get_if<SubmitMessage>(&message)) {
    RefuseAfterEnd(*submit);
  }
}

void ThreadedEngine::RefuseAfterEnd(SubmitMessage& message) {
  Usage usage;
  usage.prompt_tokens = static_cast<uint32_t>(message.request.prompt.size());
  message.sink->OnFinished(absl::UnavailableError("shutting down"), usage);
}

bool ThreadedEngine::HandleMessages(int64_t wait_us) {
  std::vector<Message> messages =
      inbox_.Drain(std::chrono::microseconds(wait_us));
  for (Message& message : messages) {
    std::visit([this](auto& m) { Handle(m); }, message);
    checked_ = false;
  }
  for (CancelState state : scheduler_->ExpireDeadlines(now())) {
    CountCancel(state);
    checked_ = false;
  }
  return !messages.empty();
}

int64_t ThreadedEngine::IdleWaitUs() const {
  const int64_t deadline_us = scheduler_->NextDeadlineUs();
  if (deadline_us == 0) return kMaxIdleUs;
  return std::clamp<int64_t>(deadline_us - now(), 0, kMaxIdleUs);
}

void ThreadedEngine::Handle(SubmitMessage& message) {
  Request& request = message.request;
  const RequestKey key = request.key;
  const bool inserted =
      live_
          .emplace(key, Live{std::move(message.sink),
                             RequestTimeline(request, parts_.metrics, now())})
          .second;
  SLUICE_CHECK(inserted);
  if (parts_.handoff == nullptr && request.phase != RequestPhase::kBoth) {
    FinishedEvent event;
    event.key = key;
    event.status = absl::UnimplementedError("this worker moves no KV");
    event.usage.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
    return Deliver(event);
  }
  scheduler_->Submit(std::move(request), now(), RetryHintMs());
}

void ThreadedEngine::Handle(CancelMessage& message) {
  CountCancel(scheduler_->Cancel(message.key, message.cause, now()));
}

void ThreadedEngine::Handle(RemoteReadyMessage& message) {
  scheduler_->RemoteReady(message.key, std::move(message.first), now());
}

void ThreadedEngine::CountRecompute(RequestKey key, bool recompute) {
  const auto it = live_.find(key);
  if (it != live_.end() && recompute) it->second.timeline.OnRecompute();
}

void ThreadedEngine::Handle(RemoteFailedMessage& message) {
  CountRecompute(message.key, message.recompute);
  scheduler_->RemoteFailed(message.key, message.cause, message.recompute,
                           now());
}

void ThreadedEngine::Handle(RemoteQuarantinedMessage& message) {
  CountRecompute(message.key, message.recompute);
  scheduler_->RemoteQuarantined(message.key, message.cause, message.recompute,
                                now());
}

void ThreadedEngine::Handle(ReleaseHeldMessage& message) {
  scheduler_->ReleaseHeld(message.key);
}

void ThreadedEngine::CountCancel(CancelState state) {
  if (parts_.metrics != nullptr) {
    parts_.metrics->cancels->With({Name(state)}).Add();
  }
}

int64_t ThreadedEngine::RetryHintMs() const {
  const double rate = std::max(stats_.prefill_tokens_per_second, 1000.0);
  const auto ms = static_cast<int64_t>(1000.0 * stats_.waiting_tokens / rate);
  return std::clamp(ms, kMinRetryHintMs, kMaxRetryHintMs);
}

// ---- The loop

void ThreadedEngine::Run() {
  bool busy = true;
  while (true) {
    if (parts_.heartbeat != nullptr) parts_.heartbeat->Tick();
    HandleMessages(busy ? 0 : IdleWaitUs());
    if (stopping_) break;
    busy = Turn();
  }
  while (!launched_.empty()) RetireOldest();
  End();
}

// False: there was nothing to do.
bool ThreadedEngine::Turn() {
  if (launched_.empty()) {
    const bool planned = LaunchNext();
    if (launched_.empty()) {
      CheckLedger();
      PublishStats();
      PublishCacheChanges();
      Deliver();
      return planned;
    }
  }
  Deliver();  // beside the step
  LaunchAhead();
  Deliver();  // of what came meanwhile
  RetireOldest();
  return true;
}

SchedulePlan ThreadedEngine::PlanNext() const {
  return scheduler_->Plan(now(),
                          step_budget_.PromptTokens(scheduler_->decoding()));
}

// False: nothing was planned. A plan may have no rows.
bool ThreadedEngine::LaunchNext() {
  const SchedulePlan plan = PlanNext();
  if (plan.empty()) return false;
  Launch(plan);
  return true;
}

// Launches a step behind one that only decodes, late enough that what arrives
// meanwhile takes part.
void ThreadedEngine::LaunchAhead() {
  HandleMessages(0);
  if (!launched_.front().decodes_only) return;
  const int64_t due_us =
      stats_.step_started_us +
      static_cast<int64_t>(decode_seconds_ * kAheadPart * 1e6);
  int64_t wait_us = due_us - now();
  while (wait_us >= kShortestWaitUs && !stopping_ && HandleMessages(wait_us)) {
    wait_us = due_us - now();
  }
  if (stopping_) return;
  const SchedulePlan plan = PlanNext();
  if (plan.empty() || plan.alone) return;
  Launch(plan);
}

void ThreadedEngine::Launch(const SchedulePlan& plan) {
  checked_ = false;
  CommittedStep step = scheduler_->Commit(plan, now());
  if (step.plan->rows.empty()) return;
  // The hand-over hears of a chunk's end before the next begins, and of a chunk
  // before Launch(), so that no layer is done before its chunk is known.
  if (!step.chunks.empty()) Deliver();
  for (const PromptChunk& chunk : step.chunks) {
    parts_.handoff->OnChunkLaunched(chunk);
  }
  if (launched_.empty()) stats_.step_started_us = now();
  PublishStats();
  parts_.executor->Launch(step.plan);
  const auto decodes = [](const PlanRow& row) { return IsDecode(row); };
  const bool decodes_only =
      std::all_of(step.plan->rows.begin(), step.plan->rows.end(), decodes);
  launched_.push_back({std::move(step.plan), decodes_only});
}

void ThreadedEngine::RetireOldest() {
  const Launched step = std::move(launched_.front());
  launched_.pop_front();
  const absl::Status status = parts_.executor->Wait(&spare_);
  const int64_t end_us = now();
  const double seconds =
      static_cast<double>(end_us - stats_.step_started_us) * 1e-6;
  CountStep(*step.plan, seconds);
  if (step.decodes_only && status.ok()) {
    // As the rank saw it, without our own wait, and at once when it is less:
    // what was slow once must not make the steps after it wait.
    const double ran = static_cast<double>(spare_.compute_us) * 1e-6;
    decode_seconds_ = std::min(ran, Mean(decode_seconds_, ran));
  }
  absl::StatusOr<StepResult> result =
      status.ok() ? absl::StatusOr<StepResult>(std::move(spare_)) : status;
  if (result.ok() && options_.step_log) options_.step_log(*step.plan, *result);
  scheduler_->Retire(*step.plan, result, end_us);
  if (result.ok()) spare_ = *std::move(result);  // its memory
  // A step launched behind it runs since then.
  stats_.step_started_us = launched_.empty() ? 0 : end_us;
  stats_.last_step_end_us = end_us;
  if (status.ok()) stats_.last_progress_us = end_us;
  PublishStats();
  PublishCacheChanges();
}

void ThreadedEngine::CountStep(const StepPlan& plan, double seconds) {
  uint64_t tokens = 0;
  uint64_t prefill_tokens = 0;
  size_t decode_rows = 0;
  for (const PlanRow& row : plan.rows) {
    tokens += row.tokens.size();
    if (IsDecode(row)) {
      ++decode_rows;
    } else {
      prefill_tokens += row.tokens.size();
    }
  }
  step_budget_.OnStep(static_cast<uint32_t>(prefill_tokens), decode_rows > 0,
                      static_cast<int64_t>(seconds * 1e6));
  stats_.step_seconds = Mean(stats_.step_seconds, seconds);
  if (prefill_tokens > 0 && seconds > 0) {
    stats_.prefill_tokens_per_second =
        Mean(stats_.prefill_tokens_per_second,
             static_cast<double>(prefill_tokens) / seconds);
  }
  if (parts_.metrics == nullptr) return;
  EngineMetrics& metrics = *parts_.metrics;
  Histogram* const by_kind = prefill_tokens == 0 ? metrics.step_decode_seconds
                             : decode_rows == 0  ? metrics.step_prefill_seconds
                                                 : metrics.step_mixed_seconds;
  by_kind->Observe(seconds);
  metrics.iteration_tokens->Observe(static_cast<double>(tokens));
  metrics.step_tokens->Observe(static_cast<double>(tokens));
  metrics.step_rows->Observe(static_cast<double>(plan.rows.size()));
}

// Once per idle spell: nothing runs, so the walk costs nobody time.
void ThreadedEngine::CheckLedger() {
  if (checked_) return;
  checked_ = true;
  const absl::Status status = scheduler_->CheckInvariants();
  if (status.ok()) return;
  ++stats_.ledger_violations;
  stats_.ledger_error = absl::StrCat(status.message());
  if (parts_.metrics != nullptr) parts_.metrics->ledger_violations->Add();
}

void ThreadedEngine::End() {
  scheduler_->CancelAll(absl::UnavailableError("shutting down"), now());
  PublishStats();
  Deliver();
  {
    MutexLock lock(end_mu_);
    ended_ = true;
  }
  for (Message& message : inbox_.Drain(std::chrono::nanoseconds(0))) {
    if (auto* submit = std::get_if<SubmitMessage>(&message)) {
      RefuseAfterEnd(*submit);
    }
  }
}

// ---- What others are told

void ThreadedEngine::Deliver() {
  for (SchedulerEvent& event : scheduler_->TakeEvents()) {
    std::visit([this](auto& e) { Deliver(e); }, event);
  }
}

ThreadedEngine::Live& ThreadedEngine::At(RequestKey key) {
  const auto it = live_.find(key);
  SLUICE_CHECK(it != live_.end());
  return it->second;
}

void ThreadedEngine::Deliver(StartedEvent& event) {
  Live& live = At(event.key);
  live.timeline.OnStarted(event, now());
  live.sink->OnStarted(event.cached_tokens);
}

void ThreadedEngine::Deliver(PromptLogprobsEvent& event) {
  At(event.key).sink->OnPromptLogprobs(std::move(event.positions));
}

void ThreadedEngine::Deliver(TokensEvent& event) {
  Live& live = At(event.key);
  live.timeline.OnTokens(event.run, now());
  live.sink->OnTokens(std::move(event.run));
}

void ThreadedEngine::Deliver(PreemptedEvent& event) {
  if (parts_.metrics != nullptr) {
    parts_.metrics->preemptions->Add();
    parts_.metrics->preemptions_blocks->Add();
  }
  At(event.key).sink->OnPreempted();
}

void ThreadedEngine::Deliver(ChoiceEndedEvent& event) {
  Live& live = At(event.key);
  live.timeline.OnChoiceEnded(event.ending);
  live.sink->OnChoiceEnded(event.ending);
}

void ThreadedEngine::Deliver(FinishedEvent& event) {
  const auto it = live_.find(event.key);
  SLUICE_CHECK(it != live_.end());
  // Moved out first: the sink may post a new request from here.
  Live live = std::move(it->second);
  live_.erase(it);
  live.timeline.OnFinished(event, now());
  live.sink->OnFinished(event.status, event.usage);
}

void ThreadedEngine::Deliver(ReservedEvent& event) {
  At(event.reservation.key).timeline.OnReserved(event.reservation);
  parts_.handoff->OnReserved(event.reservation);
}

void ThreadedEngine::Deliver(WithdrawnEvent& event) {
  parts_.handoff->OnWithdrawn(event.key, event.cause);
}

void ThreadedEngine::Deliver(ChunkDoneEvent& event) {
  parts_.handoff->OnChunkDone(event.key, event.step);
}

void ThreadedEngine::Deliver(FirstTokensEvent& event) {
  parts_.handoff->OnFirstTokens(event.key, event.first);
}

void ThreadedEngine::Deliver(PrefillFailedEvent& event) {
  parts_.handoff->OnPrefillFailed(event.key, event.cause);
}

void ThreadedEngine::PublishStats() {
  const int64_t now_us = now();
  const SchedulerCounts counts = scheduler_->Counts(now_us);
  const BlockAllocator& blocks = scheduler_->blocks();
  stats_.usable_blocks = blocks.usable();
  stats_.free_blocks = blocks.num_free();
  stats_.cached_blocks = blocks.num_cached();
  stats_.active_blocks = blocks.num_active();
  stats_.quarantined_blocks = blocks.num_quarantined();
  stats_.running_seqs = counts.running_seqs;
  stats_.waiting_seqs = counts.waiting_seqs;
  stats_.remote_seqs = counts.remote_seqs;
  stats_.held_seqs = counts.held_seqs;
  stats_.waiting_tokens = counts.waiting_tokens;
  stats_.oldest_wait_us = counts.oldest_wait_us;
  stats_.oldest_quarantine_us = counts.oldest_quarantine_us;
  stats_.live_requests = counts.live_requests;
  stats_.draining = scheduler_->draining();
  published_.Publish(stats_);
  if (parts_.metrics == nullptr) return;
  EngineMetrics& metrics = *parts_.metrics;
  metrics.running->Set(stats_.running_seqs);
  metrics.waiting->Set(stats_.waiting_seqs);
  metrics.waiting_deferred->Set(stats_.remote_seqs);
  metrics.waiting_capacity->Set(stats_.waiting_seqs - stats_.remote_seqs);
  metrics.sched_waiting_seqs->Set(stats_.waiting_seqs);
  metrics.sched_oldest_wait_seconds->Set(
      static_cast<double>(stats_.oldest_wait_us) * 1e-6);
  metrics.kv_usage->Set(
      static_cast<double>(stats_.active_blocks + stats_.quarantined_blocks) /
      stats_.usable_blocks);
  metrics.blocks_free->Set(stats_.free_blocks);
  metrics.blocks_cached->Set(stats_.cached_blocks);
  metrics.blocks_active->Set(stats_.active_blocks);
  metrics.blocks_quarantined->Set(stats_.quarantined_blocks);
}

void ThreadedEngine::PublishCacheChanges() {
  PrefixCache::Changes changes = scheduler_->TakeCacheChanges();
  if (changes.empty() || !parts_.cache_events) return;
  parts_.cache_events(PrefixCacheEvents{.cleared = changes.cleared,
                                        .stored = std::move(changes.stored),
                                        .removed = std::move(changes.removed)});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const EngineOptions& options, Parts parts) {
  SLUICE_CHECK(parts.executor != nullptr && parts.clock != nullptr);
  const uint32_t bt = options.block_tokens;
  if (bt < 8 || bt > 256 || (bt & (bt - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block_tokens must be a power of two in [8, 256], got ", bt));
  }
  SchedulerOptions scheduler{
      .limits = {.max_batch_seqs = options.max_batch_seqs,
                 .max_batch_tokens = options.max_batch_tokens,
                 .chunk_tokens = options.chunk_tokens,
                 .block_tokens = bt},
      .num_blocks = options.num_blocks,
      .model_length = options.model_length,
      .vocab = options.vocab,
      .eos_ids = options.eos_ids,
      .kv_fingerprint = options.kv_fingerprint,
      .max_waiting_seqs = options.max_waiting_seqs,
      .max_waiting_tokens = options.max_waiting_tokens,
      .aging_ms = options.aging_ms,
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Scheduler> owned,
                   Scheduler::Create(scheduler));
  return std::unique_ptr<Engine>(
      new ThreadedEngine(options, std::move(parts), std::move(owned)));
}

}  // namespace sluice::worker
