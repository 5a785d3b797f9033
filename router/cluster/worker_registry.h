#ifndef ROUTER_CLUSTER_WORKER_REGISTRY_H_
#define ROUTER_CLUSTER_WORKER_REGISTRY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/inbox.h"
#include "base/live_count.h"
#include "base/mutex.h"
#include "base/snapshot.h"
#include "proto/worker.pb.h"
#include "router/cluster/cluster_view.h"
#include "router/cluster/health.h"
#include "router/cluster/report_stream.h"
#include "router/cluster/resolver.h"

namespace sluice::router {

// Callbacks run on the control thread and must not block.
struct RegistryOptions {
  std::vector<std::string> fixed;  // host:port of each worker
  std::vector<std::string> dns;    // host:port, every address is a worker
  std::string router_id;
  int64_t silent_ms = 1000;  // no report this long: not chosen
  // No report this long: its requests are given up. Longer than silent_ms,
  // because giving up ends a client's answer.
  int64_t lost_ms = 5000;
  const Clock* clock = &SystemClock::Get();
  // Changes of a worker's prefix cache; the first of a stream is a snapshot
  // and has `cleared`.
  std::function<void(const std::string& instance, const v1::KvEvents&)>
      on_kv_events;
  // The cache of `instance` is gone with its process.
  std::function<void(const std::string& instance)> on_cache_gone;
  // That process of `instance` will not answer any more.
  std::function<void(const std::string& instance, uint64_t generation)> on_lost;
  std::function<void()> on_publish;  // view() is new
  // A report has fields this build does not know.
  std::function<void()> on_unknown_fields;
  std::function<void()> on_tick;  // each turn of the loop, for a heartbeat
};

// Knows the cluster's workers: finds their addresses, keeps a Report stream to
// each, fetches their model cards, and publishes what it knows as a
// ClusterView. One control thread owns all of it; view() is for any thread.
class WorkerRegistry {
 public:
  explicit WorkerRegistry(RegistryOptions options);
  ~WorkerRegistry();

  void Start();
  // Ends streams and threads; view() stays as it was. Idempotent.
  void Stop();

  SnapshotRef<ClusterView> view() const { return view_.Get(); }

 private:
  // One address. Its worker may be replaced by another instance.
  struct Site {
    explicit Site(int64_t silent_ms) : health(silent_ms) {}

    std::shared_ptr<const WorkerLink> link;
    bool wanted = true;  // still resolved
    StreamHealth health;
    std::shared_ptr<ReportStream> stream;
    uint64_t stream_id = 0;
    bool first_report = true;  // of this stream
    std::shared_ptr<CardFetch> fetch;
    uint64_t fetch_generation = 0;  // of the card held or being fetched
    int64_t fetch_retry_at_ms = 0;  // 0: none due
    WorkerView view;                // generation 0: never heard of
    WorkerPhase reported = WorkerPhase::kStarting;
    uint64_t lost_generation = 0;  // told to on_lost
  };
  struct TargetsEvent {
    std::vector<std::string> addresses;
  };
  struct ReportEvent {
    std::string address;
    uint64_t stream_id;
    v1::WorkerReport report;
  };
  struct EndedEvent {
    std::string address;
    uint64_t stream_id;
    absl::Status status;
  };
  struct CardFacts {
    std::shared_ptr<const ServedModel> served;
    std::string kv_fingerprint;
    uint32_t block_tokens = 0;
    std::string numerics_id;
  };
  struct CardEvent {
    std::string address;
    uint64_t generation;
    absl::StatusOr<CardFacts> facts;
  };
  using Event = std::variant<TargetsEvent, ReportEvent, EndedEvent, CardEvent>;
  // What outlives the registry while gRPC calls end, and the models built so
  // far, so that equal cards share one tokenizer.
  struct Shared {
    Inbox<Event> inbox;
    Mutex mu;
    CondVar idle;
    int open_calls ABSL_GUARDED_BY(mu) = 0;
    std::map<std::string, std::weak_ptr<const ServedModel>> built
        ABSL_GUARDED_BY(mu);
    std::set<std::string> building ABSL_GUARDED_BY(mu);  // digests of cards
    CondVar was_built;

    void CallOpened();
    void CallClosed();
    absl::StatusOr<CardFacts> Build(absl::StatusOr<CardFetch::Card> card);
  };

  // Waits for the links that calls of others still hold.
  struct Links {
    ~Links();
    LiveCount live;
  };

  void Run(const std::stop_token& stop);
  void Handle(TargetsEvent& event);
  void Handle(ReportEvent& event);
  void Handle(EndedEvent& event);
  void Handle(CardEvent& event);
  void Tick();
  void OpenStream(const std::string& address, Site& site);
  void FetchCard(const std::string& address, Site& site);
  void TakeReport(Site& site, const v1::WorkerReport& report);
  void ReportLost(Site& site);
  void UpdatePhase(Site& site, absl::string_view cause);
  void Publish();
  void PickModels(ClusterView& view) const;
  int64_t NowMs() const { return options_.clock->NowMs(); }

  const Links links_;  // goes last
  const RegistryOptions options_;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  Snapshot<ClusterView> view_;
  std::unique_ptr<Resolver> resolver_;
  std::map<std::string, Site> sites_;  // by address; control thread
  uint64_t next_stream_id_ = 1;        // control thread
  bool eager_ = false;                 // a worker that is down may be starting
  bool changed_ = false;               // control thread
  std::jthread thread_;
};

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_WORKER_REGISTRY_H_
