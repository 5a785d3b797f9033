#ifndef ROUTER_FLOW_GENERATE_FLOW_H_
#define ROUTER_FLOW_GENERATE_FLOW_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/snapshot.h"
#include "router/flow/admission.h"
#include "router/flow/answer.h"
#include "router/flow/deadline.h"
#include "router/flow/ejection.h"
#include "router/flow/flow_metrics.h"
#include "router/flow/prepare.h"
#include "router/flow/request_flow.h"
#include "router/flow/strand.h"
#include "router/flow/worker_stream.h"
#include "router/route/policy.h"
#include "router/route/prefix_index.h"

namespace sluice::router {

class GenerateFlow;

struct FlowLimits {
  int64_t default_duration_ms = 600'000;
  int64_t max_duration_ms = 3'600'000;
  int64_t stall_timeout_ms = 60'000;
  uint32_t max_buffered_deltas = 1024;
  uint64_t max_buffered_bytes = 256u << 10;
};

// What all flows of a router share; outlives them. Functions are thread-safe.
struct FlowServices {
  const Clock* clock = nullptr;
  Admission* admission = nullptr;
  Ejections* ejections = nullptr;
  TimerQueue* timers = nullptr;
  FlowMetrics* metrics = nullptr;
  const PrefixIndex* index = nullptr;
  std::string router_id;
  std::string policy_name;
  FlowLimits limits;
  std::function<SnapshotRef<ClusterView>()> view;
  std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(
      absl::string_view)>
      find_model;
  // Enters the table of live flows: kAlreadyExists, kResourceExhausted,
  // kUnavailable while draining.
  std::function<absl::Status(std::shared_ptr<GenerateFlow>)> enroll;
  // Leaves it again: ended, and every worker stream closed.
  std::function<void(const std::string& request_id)> retire;
};

// The state machine behind Flow. Everything happens on its strand, one item at
// a time: start, grants, worker events, acknowledgements, cancels, timers.
// new -> queued -> dispatched -> started -> ended -> retired; a refusal before
// `started` goes back to queued. Keeps prompt, seed, sampling and tokens, so a
// lost attempt can be dispatched again.
class GenerateFlow final : public Flow,
                           public TimerTarget,
                           public std::enable_shared_from_this<GenerateFlow> {
 public:
  GenerateFlow(const FlowServices& services, GenerateCall call,
               std::shared_ptr<FlowListener> listener);
  ~GenerateFlow() override;

  void Start() override { Post(StartItem{}); }
  void Acknowledge(uint32_t num_deltas) override { Post(AckItem{num_deltas}); }
  void Cancel(CancelCause cause) override { Post(CancelItem{cause}); }
  const std::string& request_id() const override { return request_id_; }

  void OnTimer(int64_t now_us) override { Post(TimerItem{now_us}); }
  // That process will not answer any more.
  void OnWorkerLost(const std::string& instance, uint64_t generation) {
    Post(LostItem{instance, generation});
  }

 private:
  struct StartItem {};
  struct GrantItem {
    absl::StatusOr<Grant> grant;
  };
  struct EventItem {
    std::shared_ptr<WorkerStream> stream;
  };
  struct StreamEndItem {
    std::shared_ptr<WorkerStream> stream;
    absl::Status status;
  };
  struct AckItem {
    uint32_t num_deltas;
  };
  struct CancelItem {
    CancelCause cause;
  };
  struct TimerItem {
    int64_t now_us;
  };
  struct LostItem {
    std::string instance;
    uint64_t generation;
  };
  using Item = std::variant<StartItem, EventItem, AckItem, StreamEndItem,
                            GrantItem, CancelItem, TimerItem, LostItem>;

  // One dispatch to one worker.
  struct Attempt {
    std::shared_ptr<WorkerStream> stream;  // null: none, or closed
    std::string instance;
    uint64_t generation = 0;
    WorkerRole role = WorkerRole::kMixed;
    uint64_t spend = 0;
    bool admitted = false;
    bool owes_next = false;  // its event waits for room or for the start
  };

  void Post(Item item);
  void Handle(StartItem item);
  void Handle(GrantItem item);
  void Handle(const EventItem& item);
  void Handle(const StreamEndItem& item);
  void Handle(AckItem item);
  void Handle(CancelItem item);
  void Handle(TimerItem item);
  void Handle(const LostItem& item);

  // Start.
  absl::Status Begin();
  void ApplyDeadline();
  void ScheduleTimer();
  void MakeRoute();
  void EnterQueue();
  // Dispatch.
  void Dispatch(const Grant& grant);
  Attempt Submit(const WorkerView& worker, uint64_t spend,
                 v1::SubmitRequest request);
  v1::SubmitRequest MakeSubmit(v1::SubmitRequest::Phase phase);
  void SubmitPrefill(const v1::Ticket& ticket);
  // Events. True: the event is done with; false: Next() is owed.
  bool TakeEvent(Attempt& attempt, v1::WorkerEvent& event);
  void TakeAdmitted(Attempt& attempt, const v1::Admitted& admitted);
  void TakeUsage(const v1::RequestEnd& end, bool from_decode);
  void TakeStep(absl::StatusOr<Answer::Step> step);
  bool HoldBack();
  void MaybeStart();
  void EmitStarted();
  void EmitDelta(v1::TokenDelta delta);
  absl::Status CheckAnswerSize(const v1::TokenDelta& delta);
  bool BufferFull() const;
  void ResumeReading();
  // Ends.
  void HandleDecodeEnd(const absl::Status& status);
  void HandlePrefillEnd(const absl::Status& status);
  void FailAttempt(const Attempt& attempt, const absl::Status& status);
  void Abandon(Attempt& attempt, const std::string& cause,
               AttemptOutcome outcome);
  bool MayRetry(const Attempt& attempt, const absl::Status& status) const;
  absl::Status FinalStatus(const Attempt& attempt,
                           const absl::Status& status) const;
  void End(const absl::Status& status);
  void CancelWith(CancelCause cause, const absl::Status& status);
  void FillRecord(const absl::Status& status);
  v1::RequestEnd MakeUsage() const;
  void MaybeRetire();
  void SetPhase(std::optional<Phase> phase);
  void CountAttempt(const Attempt& attempt, AttemptOutcome outcome);
  void BlameWorker(const Attempt& attempt, absl::string_view cause);
  int64_t NowUs() const { return services_.clock->NowMicros(); }

  const FlowServices& services_;
  const std::string request_id_;
  Strand<Item> strand_;

  // All below: the strand's.
  GenerateCall call_;
  std::shared_ptr<FlowListener> listener_;  // null once ended
  PreparedRequest prepared_;
  Answer answer_;
  RouteRequest route_;
  RequestRecord record_;
  int64_t deadline_us_ = 0;
  int64_t ttft_deadline_us_ = 0;  // 0: none, or met
  int64_t retry_at_us_ = 0;       // 0: not waiting to queue again
  std::optional<TimerQueue::Key> timer_;
  uint64_t queue_id_ = 0;  // 0: not queued
  int64_t queued_at_us_ = 0;
  int64_t dispatched_at_us_ = 0;
  uint32_t num_dispatches_ = 0;  // of the whole request
  Attempt decode_;               // also of both phases
  Attempt prefill_;
  // The view that holds the worker of the next prefill, and its place there.
  SnapshotRef<ClusterView> grant_view_;
  const WorkerView* planned_prefill_ = nullptr;
  uint64_t planned_prefill_spend_ = 0;
  uint32_t num_open_streams_ = 0;
  bool prompt_admitted_ = false;
  bool prefill_done_ = false;
  bool decode_done_ = false;  // its last event has come
  bool have_prompt_logprobs_ = false;
  v1::Logprobs prompt_logprobs_;
  uint32_t cached_tokens_ = 0;
  std::string fingerprint_;
  std::string numerics_id_;
  bool enrolled_ = false;
  bool started_ = false;
  bool ended_ = false;
  int64_t cancelled_at_us_ = 0;
  std::optional<Phase> phase_;
  Histogram* itl_ = nullptr;
  int64_t last_delta_us_ = 0;
  int64_t detokenize_us_ = 0;
  std::deque<uint32_t> unread_bytes_;  // per delta not acknowledged
  uint64_t unread_total_bytes_ = 0;
  bool counted_slow_ = false;
  int64_t reader_progress_us_ = 0;
  uint64_t replay_bytes_ = 0;
  uint64_t answer_bytes_ = 0;  // counted only against max_answer_bytes
  v1::Timing worker_timing_;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_GENERATE_FLOW_H_
