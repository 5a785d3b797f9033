#ifndef WORKER_ENGINE_SCHEDULER_H_
#define WORKER_ENGINE_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/cache/block_allocator.h"
#include "worker/cache/prefix_cache.h"
#include "worker/engine/batch_policy.h"
#include "worker/engine/kv_handoff.h"
#include "worker/engine/request.h"
#include "worker/engine/scheduler_event.h"
#include "worker/engine/sequence.h"
#include "worker/engine/step_plan.h"
#include "worker/sampling/token_stop.h"

namespace sluice::worker {

struct SchedulerOptions {
  BatchLimits limits;
  uint32_t num_blocks = 0;    // with the null block
  uint32_t model_length = 0;  // tokens a sequence may hold
  uint32_t vocab = 0;
  std::vector<TokenId> eos_ids;
  std::string kv_fingerprint;  // 32 bytes
  uint32_t max_waiting_seqs = 1024;
  uint64_t max_waiting_tokens = 4u << 20;
  uint32_t aging_ms = 10000;
};

// What the next step does, decided from the state it was planned in. Committed
// in that state it always succeeds; replaying a log of plans and results
// reproduces every block table.
struct SchedulePlan {
  // Computes tokens up to position `end` of a running or partial sequence.
  struct Row {
    SequenceKey seq = 0;
    uint32_t end = 0;
  };
  struct Admission {
    SequenceKey seq = 0;
    std::vector<BlockId> matched;  // prefix-cache blocks, from position 0
    uint32_t end = 0;              // 0: reserves for a remote prompt, no row
  };
  std::vector<SequenceKey> preempted;
  std::vector<Row> rows;  // oldest admission first
  std::vector<Admission> admissions;
  // Not to be committed while a step is launched: evicted blocks come back
  // when it retires, and a hand-over hears of a chunk's end before the next.
  bool alone = false;

  bool empty() const {
    return preempted.empty() && rows.empty() && admissions.empty();
  }
};

struct CommittedStep {
  std::shared_ptr<const StepPlan> plan;  // rows may be empty: nothing to run
  std::vector<PromptChunk> chunks;       // of kPrefill requests, by row
};

struct SchedulerCounts {
  uint32_t running_seqs = 0;
  uint32_t waiting_seqs = 0;  // queued, partial and remote
  uint32_t remote_seqs = 0;
  uint32_t held_seqs = 0;
  uint64_t waiting_tokens = 0;
  int64_t oldest_wait_us = 0;
  int64_t oldest_quarantine_us = 0;  // 0: no block is quarantined
  uint64_t live_requests = 0;        // without a final status
};

enum class CancelState : uint8_t {
  kUnknown,
  kWaiting,   // never planned
  kPartial,   // partially prefilled or preempted
  kRunning,   // between two steps
  kLaunched,  // in a launched step
  kRemote,    // waits for remote KV
  kHeld,      // its KV is being sent
  kFinished,
};

// Decides which sequences run in each step, with which tokens and blocks, and
// keeps every request's state (KV cache specification, sections 4-8, for one
// replica). Engine thread only; no I/O, no clock. Plan() reads, Commit() and
// Retire() are the two halves of a step; what sinks and hand-over must hear
// piles up until TakeEvents(). Every submitted request gets one FinishedEvent.
class Scheduler {
 public:
  static constexpr uint32_t kAllPromptTokens = UINT32_MAX;

  // kInvalidArgument: limits under which requests could starve.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(
      const SchedulerOptions& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Admits or ends the request (texts: KV cache specification section 7.7).
  // `retry_hint_ms` goes into a refusal for lack of queue space.
  void Submit(Request request, int64_t now_us, int64_t retry_hint_ms);
  // Ends the request, or remembers the key for 60 s if it is not known.
  CancelState Cancel(RequestKey key, const absl::Status& cause, int64_t now_us);
  void CancelAll(const absl::Status& cause, int64_t now_us);
  // Cancels what is past its deadline; returns how many by state.
  std::vector<CancelState> ExpireDeadlines(int64_t now_us);
  // Of Clock::NowMicros(); 0: no request has one.
  int64_t NextDeadlineUs() const;
  // No effect on an unknown request.
  void SetPaused(RequestKey key, bool paused);
  void StartDraining() { draining_ = true; }
  bool draining() const { return draining_; }

  void RemoteReady(RequestKey key, FirstTokens first, int64_t now_us);
  void RemoteFailed(RequestKey key, const absl::Status& cause, bool recompute,
                    int64_t now_us);
  // As RemoteFailed(), but the source may still write the blocks reserved for
  // it: nobody gets them before RemoteReleased().
  void RemoteQuarantined(RequestKey key, const absl::Status& cause,
                         bool recompute, int64_t now_us);
  void RemoteReleased(RequestKey key);
  void ReleaseHeld(RequestKey key);

  // The next step, with at most `prompt_tokens` of prompts; of less than a
  // block a prompt that is longer takes none. While a step is launched, a
  // sequence that draws its next token there takes part with kDrawnBefore,
  // unless that token is its last by length.
  SchedulePlan Plan(int64_t now_us,
                    uint32_t prompt_tokens = kAllPromptTokens) const;
  // Some sequence decodes: a step is also a gap in its stream.
  bool decoding() const { return !running_.empty(); }
  CommittedStep Commit(const SchedulePlan& plan, int64_t now_us);
  // In the order of Commit().
  void Retire(const StepPlan& plan, const absl::StatusOr<StepResult>& result,
              int64_t now_us);

  std::vector<SchedulerEvent> TakeEvents() {
    return std::exchange(events_, {});
  }
  void ResetPrefixCache() { prefix_cache_.Reset(); }
  PrefixCache::Changes TakeCacheChanges() {
    return prefix_cache_.TakeChanges();
  }

  const BlockAllocator& blocks() const { return allocator_; }
  SchedulerCounts Counts(int64_t now_us) const;
  // Block tables by sequence, for tests, logs and dumps.
  std::vector<std::pair<SequenceKey, std::vector<BlockId>>> Tables() const;
  // kInternal naming the first broken rule of section 2.
  absl::Status CheckInvariants() const;

 private:
  enum class Phase : uint8_t {
    kUnborn,     // computed by the first of its group until the prompt is done
    kWaiting,    // in waiting_
    kPartial,    // prompt partly computed
    kRunning,    // in running_
    kRemote,     // blocks reserved for a remote prompt
    kWithdrawn,  // as kRemote, but its request has ended
    kHeld,       // prompt done or given up, blocks pinned by a transfer
    kEnded,      // released as soon as no launched step names it
  };
  struct Entry;
  struct Choice;
  struct PlanState;
  // Blocks that a source may still write, whatever became of the request.
  struct Quarantined {
    int64_t since_us = 0;
    std::vector<BlockId> blocks;
  };

  explicit Scheduler(const SchedulerOptions& options);

  // Submission and ends (scheduler.cc).
  absl::Status CheckRequest(const Request& request, int64_t now_us,
                            int64_t retry_hint_ms) const;
  absl::Status CheckReplay(const Request& request) const;
  absl::Status CheckQueue(const Request& request, int64_t retry_hint_ms) const;
  void Refuse(const Request& request, const absl::Status& status);
  void CreateChoices(Entry& entry, int64_t now_us);
  void ForgetEarlyCancels(int64_t now_us);
  CancelState StateOf(const Entry& entry) const;
  void EndRequest(Entry& entry, const absl::Status& status,
                  bool bad_logits = false);
  void EndChoice(Choice& choice);
  void DropChoice(Choice& choice);
  void Finish(Entry& entry, const absl::Status& status,
              bool bad_logits = false);
  void TryRelease(Choice& choice);
  void ReleaseBlocks(Choice& choice);
  void EraseIfDone(Entry& entry);
  Entry* Find(RequestKey key);

  // Queues.
  void PushWaiting(Choice& choice, int64_t now_us);
  void RemoveFromQueues(Choice& choice, int64_t now_us);
  void PushRunning(Choice& choice);

  // Planning (scheduler_plan.cc).
  void PlanDecodeRows(PlanState& state) const;
  bool PlanPartial(PlanState& state) const;
  void PlanWaiting(PlanState& state) const;
  bool PlanAdmission(PlanState& state, const Choice& choice) const;
  bool MakeRoom(PlanState& state, const Choice& needy) const;
  void PlanPreemption(PlanState& state, const Choice& victim) const;
  // Preempts one paused sequence, if there is any.
  bool PlanPausedPreemption(PlanState& state) const;
  // New blocks for a row up to `end`, and the shared block it must copy (0:
  // none; its copy is counted).
  std::pair<uint32_t, BlockId> RowNeeds(const PlanState& state,
                                        const Choice& choice,
                                        uint32_t end) const;
  uint32_t Chunk(const PlanState& state, uint32_t left) const;
  uint32_t RunningSeqs(const PlanState& state) const;  // with choices unborn
  std::vector<BlockId> Lookup(const Choice& choice) const;
  bool StartsRemote(const Choice& choice) const;
  bool Plannable(const Choice& choice) const;
  // Draws its next token in a launched step and goes on after it, but for what
  // the token itself may end.
  bool DrawsAhead(const Choice& choice) const;
  // Where its next row ends: its known tokens, or the one being drawn.
  uint32_t RowEnd(const Choice& choice) const;
  int64_t EffectivePriorityOf(const Choice& choice, int64_t now_us) const;

  // Steps (scheduler_step.cc).
  void Preempt(Choice& choice, int64_t now_us);
  void Admit(const SchedulePlan::Admission& admission, int64_t now_us);
  void Reserve(Choice& choice, const SchedulePlan::Admission& admission);
  void AddRow(Choice& choice, uint32_t end, StepPlan& step, CommittedStep& out);
  void AddStart(Choice& choice, StepPlan& step);
  void CommitFullBlocks(Choice& choice);
  // Gives up replaced blocks that only steps up to this one could name.
  void ReleaseDropped(Choice& choice, uint64_t retired_step);
  void TakePromptLogprobs(Entry& entry, const PlanRow& row,
                          const StepResult& result);
  void TakeSamples(Choice& choice, absl::Span<const SampledToken> sampled);
  void FinishPrefill(Choice& choice, absl::Span<const SampledToken> sampled);
  void Fork(Choice& lead);
  void AppendToken(Choice& choice, TokenId token,
                   const TokenLogprobs* logprobs);
  absl::Status CheckChoice(const Choice& choice) const;
  absl::Status CheckQuarantine() const;

  const SchedulerOptions options_;
  const uint32_t block_tokens_;
  const uint32_t length_limit_;  // model length or what the pool can hold
  const uint32_t watermark_blocks_;
  BlockAllocator allocator_;
  PrefixCache prefix_cache_;

  absl::flat_hash_map<RequestKey, std::unique_ptr<Entry>> entries_;
  absl::flat_hash_map<SequenceKey, Choice*> choices_;
  absl::flat_hash_map<RequestKey, Quarantined> quarantined_;
  std::vector<Choice*> waiting_;  // any order
  std::vector<Choice*> running_;  // oldest admission first
  Choice* partial_ = nullptr;
  std::set<std::pair<int64_t, RequestKey>> deadlines_;
  // Cancelled before they were submitted, and when to forget them, in order.
  absl::flat_hash_map<RequestKey, absl::Status> early_cancels_;
  std::deque<std::pair<int64_t, RequestKey>> early_cancel_ends_;
  std::vector<SequenceKey> ended_on_executor_;  // for the next StepPlan
  std::vector<SchedulerEvent> events_;

  uint64_t waiting_tokens_ = 0;
  uint32_t remote_seqs_ = 0;
  uint32_t held_seqs_ = 0;
  uint64_t live_requests_ = 0;
  uint64_t next_sequence_ = 1;
  uint64_t next_arrival_ = 1;
  uint64_t next_admission_ = 1;
  uint64_t next_step_ = 1;
  bool draining_ = false;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_SCHEDULER_H_
