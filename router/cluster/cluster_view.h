#ifndef ROUTER_CLUSTER_CLUSTER_VIEW_H_
#define ROUTER_CLUSTER_CLUSTER_VIEW_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "router/cluster/served_model.h"
#include "router/cluster/worker_link.h"

namespace sluice::router {

enum class WorkerRole { kMixed = 0, kPrefill = 1, kDecode = 2 };

// What the router makes of a worker. Only kServing takes new requests.
enum class WorkerPhase {
  kStarting,  // reports, but does not serve yet
  kServing,
  kDraining,
  kDrained,
  kFailed,
  kSilent,  // connected, but no report for peer.silent_ms
  kLost,    // the report stream broke
};

absl::string_view RoleName(WorkerRole role);     // mixed, prefill, decode
absl::string_view PhaseName(WorkerPhase phase);  // starting, ...

// What the worker would take on now, as of its last report.
struct WorkerCredits {
  bool known = false;  // false: the worker does not say, so no limit
  uint64_t blocks = 0;
  uint64_t prefill_tokens = 0;
  uint64_t inbound_bytes = 0;
  uint32_t slots = 0;  // sequences
};

struct WorkerLoad {
  uint32_t running_seqs = 0;
  uint32_t waiting_seqs = 0;
  uint64_t waiting_tokens = 0;
  uint64_t used_blocks = 0;
  uint64_t usable_blocks = 0;
  double step_seconds = 0;
};

// A KV link as the reporting worker sees it.
struct PeerLinkView {
  std::string instance;
  uint64_t generation = 0;
  bool up = false;
  std::string transport;  // shm, ucx, loopback
};

// One worker process. A plain value; `link` and `model` are handles to
// immutable things.
struct WorkerView {
  std::string instance;  // stable name, unique in a view
  uint64_t generation = 0;
  WorkerRole role = WorkerRole::kMixed;
  WorkerPhase phase = WorkerPhase::kLost;
  std::string model;         // served name
  std::string model_digest;  // 32 bytes
  std::string numerics_id;
  uint32_t max_context = 0;  // tokens
  // Why it is not ready, in its own words: no_peer, pool_stuck, ...
  std::vector<std::string> reasons;
  WorkerCredits credits;
  WorkerLoad load;
  std::vector<PeerLinkView> peers;
  uint32_t block_tokens = 0;   // 0: no card yet
  std::string kv_fingerprint;  // 32 bytes; of the block hashes
  uint64_t num_reports = 0;    // received by this router in this generation
  std::shared_ptr<const WorkerLink> link;
  std::shared_ptr<const ServedModel> served;  // null: no card yet

  bool LinkedTo(const WorkerView& peer) const;
  // Takes new requests. `without_peer`: also if a missing peer is all that is
  // wrong, which does not matter to one that works alone.
  bool Usable(bool without_peer = false) const;
};

// All workers this router knows, published by the control thread.
struct ClusterView {
  std::vector<WorkerView> workers;  // ascending by instance
  // Every model heard of since the start, by name; a name keeps its newest.
  std::map<std::string, std::shared_ptr<const ServedModel>, std::less<>> models;

  const WorkerView* Find(absl::string_view instance) const;
};

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_CLUSTER_VIEW_H_
