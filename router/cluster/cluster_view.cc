#include "router/cluster/cluster_view.h"

#include <algorithm>

namespace sluice::router {

absl::string_view RoleName(WorkerRole role) {
  switch (role) {
    case WorkerRole::kMixed:
      return "mixed";
    case WorkerRole::kPrefill:
      return "prefill";
    case WorkerRole::kDecode:
      return "decode";
  }
  return "unknown";
}

absl::string_view PhaseName(WorkerPhase phase) {
  switch (phase) {
    case WorkerPhase::kStarting:
      return "starting";
    case WorkerPhase::kServing:
      return "serving";
    case WorkerPhase::kDraining:
      return "draining";
    case WorkerPhase::kDrained:
      return "drained";
    case WorkerPhase::kFailed:
      return "failed";
    case WorkerPhase::kSilent:
      return "silent";
    case WorkerPhase::kLost:
      return "lost";
  }
  return "unknown";
}

bool WorkerView::LinkedTo(const WorkerView& peer) const {
  return std::any_of(peers.begin(), peers.end(), [&](const PeerLinkView& p) {
    return p.up && p.instance == peer.instance &&
           p.generation == peer.generation;
  });
}

bool WorkerView::Usable(bool without_peer) const {
  if (phase != WorkerPhase::kServing || served == nullptr) return false;
  if (!without_peer) return reasons.empty();
  return std::all_of(reasons.begin(), reasons.end(),
                     [](const std::string& r) { return r == "no_peer"; });
}

const WorkerView* ClusterView::Find(absl::string_view instance) const {
  auto it = std::lower_bound(
      workers.begin(), workers.end(), instance,
      [](const WorkerView& w, absl::string_view i) { return w.instance < i; });
  return it != workers.end() && it->instance == instance ? &*it : nullptr;
}

}  // namespace sluice::router
