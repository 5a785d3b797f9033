#ifndef TESTS_WORKER_ENGINE_SCHEDULER_RIG_H_
#define TESTS_WORKER_ENGINE_SCHEDULER_RIG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/worker/engine/fake_model.h"
#include "worker/engine/scheduler.h"

namespace sluice::worker {

// What a request's sink would have seen; every rule of its order is checked
// as it grows.
struct Stream {
  bool started = false;
  uint32_t cached = 0;
  std::vector<std::vector<TokenId>> tokens;  // by choice
  std::vector<std::optional<ChoiceEnding>> endings;
  std::optional<std::vector<TokenLogprobs>> prompt_logprobs;
  uint32_t preempted = 0;
  std::optional<absl::Status> status;
  Usage usage;
};

// `count` token ids that depend on `seed` only.
std::vector<TokenId> Tokens(uint32_t count, uint32_t seed);

// A scheduler over a FakeModel, stepped by hand. Invariants are checked after
// every operation.
class SchedulerRig {
 public:
  struct Options {
    uint32_t usable_blocks = 100;
    uint32_t block_tokens = 4;
    uint32_t max_batch_seqs = 8;
    uint32_t max_batch_tokens = 64;
    uint32_t chunk_tokens = 0;
    uint32_t model_length = 1000;
    uint32_t max_waiting_seqs = 1000;
    uint64_t max_waiting_tokens = 1000000;
    uint32_t aging_ms = 10000;
    uint32_t eos_in = 0;
  };

  explicit SchedulerRig(const Options& options);

  // Submits with a new key, which is returned. max_tokens as given.
  RequestKey Submit(Request request);
  RequestKey Submit(std::vector<TokenId> prompt, int32_t max_tokens,
                    int32_t priority = 0);

  SchedulePlan Plan() const { return scheduler->Plan(now_us); }
  CommittedStep Commit(const SchedulePlan& plan);
  void Retire(const StepPlan& plan);
  void Fail(const StepPlan& plan, const absl::Status& status);
  // One whole step; false if there was nothing to do.
  bool Step();
  // As Step(), with the next step committed before the first retires wherever
  // that is allowed. False if there was nothing to do.
  bool StepAhead();
  // Until nothing is left to do; CHECKs that it ends.
  void RunAll();
  CancelState Cancel(RequestKey key,
                     const absl::Status& cause = absl::CancelledError("gone"));
  // Answers every open reservation as a prefill worker would.
  void CompleteReservations();

  // Collects events and checks invariants; the others call it.
  void Settle();

  // "1[0,8) 2[8,9)": sequence and token range of every row.
  static std::string Rows(const StepPlan& plan);
  // Plans, commits, runs and retires; Rows() of it.
  std::string StepRows();

  FakeModel model;
  std::unique_ptr<Scheduler> scheduler;
  int64_t now_us = 1000000;
  std::deque<std::shared_ptr<const StepPlan>> launched;  // by StepAhead()
  std::map<RequestKey, Stream> streams;
  std::map<RequestKey, Request> requests;

  // What the hand-over would have been told.
  std::map<RequestKey, RemoteReservation> reservations;  // not yet answered
  std::vector<RequestKey> withdrawn;
  std::vector<RequestKey> quarantined;  // by the test, not released yet
  std::vector<std::pair<RequestKey, uint64_t>> chunks_done;
  std::map<RequestKey, FirstTokens> first_tokens;
  std::map<RequestKey, absl::Status> prefill_failed;

 private:
  void On(const StartedEvent& event);
  void On(const PromptLogprobsEvent& event);
  void On(const TokensEvent& event);
  void On(const PreemptedEvent& event);
  void On(const ChoiceEndedEvent& event);
  void On(const FinishedEvent& event);
  void On(const ReservedEvent& event);
  void On(const WithdrawnEvent& event);
  void On(const ChunkDoneEvent& event);
  void On(const FirstTokensEvent& event);
  void On(const PrefillFailedEvent& event);
  Stream& Open(RequestKey key);

  RequestKey next_key_ = 1;
};

// The stream of one choice, computed without any scheduler.
std::vector<TokenId> Expected(const SchedulerRig& rig, const Request& request,
                              uint64_t seed);

}  // namespace sluice::worker

#endif  // TESTS_WORKER_ENGINE_SCHEDULER_RIG_H_
