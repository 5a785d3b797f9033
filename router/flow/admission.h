#ifndef ROUTER_FLOW_ADMISSION_H_
#define ROUTER_FLOW_ADMISSION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/snapshot.h"
#include "router/flow/ejection.h"
#include "router/flow/wait_queue.h"
#include "router/route/policy.h"

namespace sluice::router {

// Permission to dispatch: where to, and the credits spent there, which the
// holder gives back with Release().
struct Grant {
  RouteDecision decision;         // points into `view`
  SnapshotRef<ClusterView> view;  // keeps it alive
  uint64_t decode_spend = 0;      // 0: none
  uint64_t prefill_spend = 0;
  int64_t route_us = 0;  // what the choice took
};

struct AdmissionRequest {
  RouteRequest route;
  int32_t priority = 0;
  std::string tenant;
  int64_t deadline_us = 0;  // monotonic
  uint64_t bytes = 0;       // memory it keeps while it waits
  // The grant, or kUnavailable with a hint when no path is left. Once, unless
  // Leave() came first; from any thread, no lock held, also before Enter()
  // returns.
  std::function<void(absl::StatusOr<Grant>)> on_decided;
};

struct AdmissionOptions {
  WaitLimits limits;
  std::function<SnapshotRef<ClusterView>()> view;
  const RoutePolicy* policy = nullptr;
  Ejections* ejections = nullptr;  // null: nobody is ejected
  const Clock* clock = &SystemClock::Get();
  std::function<void(const std::string& model, absl::string_view reason)>
      on_rejection;
};

// Who may go now. A request spends its workers' credits when it is granted;
// what a worker's next report covers is given back then. Without credit it
// waits in a bounded queue per model. Thread-safe.
class Admission {
 public:
  explicit Admission(AdmissionOptions options) : options_(std::move(options)) {}

  // Grants, queues (an id for Leave()), or refuses: kResourceExhausted
  // QUEUE_FULL or QUEUE_DEADLINE, each with a retry hint; kUnavailable NO_PATH.
  absl::StatusOr<uint64_t> Enter(AdmissionRequest request);
  // Gives up a place in the queue; false: not in it (any more).
  bool Leave(uint64_t id);

  // The worker has told that it took the request: its reports will count it.
  void Settle(uint64_t spend);
  // The dispatch is over, or never happened.
  void Release(uint64_t spend);

  // Looks again at who may go: after a new view and after releases.
  void Pump();

  struct QueueStats {
    std::string model;
    uint64_t requests = 0;
    uint64_t tokens = 0;
    uint64_t bytes = 0;
    double oldest_seconds = 0;
  };
  std::vector<QueueStats> Stats() const;
  size_t num_spends() const;

 private:
  struct Spend {
    std::string instance;
    uint64_t generation = 0;
    SpentCredits credits;
    bool settled = false;
    uint64_t reports_at_settle = 0;
  };
  struct Waiting {
    AdmissionRequest request;
    std::string model;
  };
  struct Line {
    explicit Line(WaitLimits limits) : queue(limits) {}
    WaitQueue queue;
    double grant_interval_us = 0;  // exponential mean
    int64_t last_grant_us = 0;
  };
  using Call = std::function<void()>;

  RouteDecision Choose(RouteRequest& route, const ClusterView& view)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Grant Take(const RouteRequest& route, const RouteDecision& decision,
             SnapshotRef<ClusterView> view) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t Spent(const WorkerView& worker, const SpentCredits& credits)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Forget(uint64_t spend) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DropCovered(const ClusterView& view) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PumpLine(Line& line, const SnapshotRef<ClusterView>& view,
                std::vector<Call>& calls) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void NoteGrant(Line& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckRoom(const AdmissionRequest& request, Line& line)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int64_t WaitEstimateUs(const Line& line) const;
  absl::Status Refuse(const std::string& model, absl::string_view reason,
                      absl::Status status, int64_t delay_us) const;

  const AdmissionOptions options_;
  mutable Mutex mu_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, Line> lines_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, Spend> spends_ ABSL_GUARDED_BY(mu_);
  SpentByInstance spent_ ABSL_GUARDED_BY(mu_);
};

// What a request will hold of a worker, as credits.
SpentCredits CreditsFor(const RouteRequest& request, const WorkerView& worker,
                        bool computes_prompt, bool decodes);

}  // namespace sluice::router

#endif  // ROUTER_FLOW_ADMISSION_H_
