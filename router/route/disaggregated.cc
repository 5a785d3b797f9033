#include "router/route/disaggregated.h"

#include <algorithm>
#include <vector>

#include "absl/algorithm/container.h"

namespace sluice::router {
namespace {

// One running sequence slows a step about as much as this many prompt tokens
// delay a first token.
constexpr double kTokensPerSequence = 64;
// A nearly full pool preempts.
constexpr double kTokensPerFullPool = 1024;
// How much more waiting a session's own worker is worth.
constexpr double kSessionSlackTokens = 4096;

struct Path {
  const WorkerView* decode = nullptr;
  const WorkerView* prefill = nullptr;  // null: `decode` does both
  const WorkerView& prompt_worker() const {
    return prefill != nullptr ? *prefill : *decode;
  }
};

SpentCredits SpentOn(const RouteRequest& request, const WorkerView& worker) {
  if (request.spent == nullptr) return {};
  auto it = request.spent->find(worker.instance);
  return it == request.spent->end() ? SpentCredits{} : it->second;
}

uint32_t CachedOn(const RouteRequest& request, const WorkerView& worker) {
  auto it = request.cached_tokens.find(worker.instance);
  return it == request.cached_tokens.end()
             ? 0
             : std::min(it->second, request.prompt_tokens);
}

uint64_t CeilDiv(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// What one phase needs of its worker.
struct Needs {
  bool prompt = false;
  bool decode = false;
};

bool HasCredit(const RouteRequest& request, const WorkerView& worker,
               Needs needs) {
  const SpentCredits spent = SpentOn(request, worker);
  const bool idle = worker.load.running_seqs == 0 &&
                    worker.load.waiting_seqs == 0 && spent.slots == 0;
  // An idle worker takes anything: a request larger than a worker's promise
  // must not wait forever.
  if (!worker.credits.known || idle) return true;
  const uint32_t choices = needs.decode ? request.num_choices : 1;
  if (worker.credits.slots < uint64_t{spent.slots} + choices) return false;
  const uint64_t block_tokens = std::max<uint32_t>(worker.block_tokens, 1);
  uint64_t blocks = CeilDiv(request.prompt_tokens, block_tokens);
  if (needs.decode) {
    blocks += choices * CeilDiv(request.reserve_tokens, block_tokens);
  }
  if (worker.credits.blocks < spent.blocks + blocks) return false;
  if (!needs.prompt) return true;
  const uint64_t computed = request.prompt_tokens - CachedOn(request, worker);
  return worker.credits.prefill_tokens >= spent.prefill_tokens + computed;
}

bool HasCredit(const RouteRequest& request, const Path& path) {
  if (path.prefill == nullptr) {
    return HasCredit(request, *path.decode, {.prompt = true, .decode = true});
  }
  return HasCredit(request, *path.decode, {.decode = true}) &&
         HasCredit(request, *path.prefill, {.prompt = true});
}

double DecodeCost(const RouteRequest& request, const WorkerView& worker) {
  const SpentCredits spent = SpentOn(request, worker);
  const double seqs = static_cast<double>(worker.load.running_seqs) +
                      worker.load.waiting_seqs + spent.slots;
  double usage = 0;
  if (worker.load.usable_blocks > 0) {
    usage = static_cast<double>(worker.load.used_blocks + spent.blocks) /
            static_cast<double>(worker.load.usable_blocks);
  }
  return kTokensPerSequence * seqs + kTokensPerFullPool * usage;
}

bool IsOut(const RouteRequest& request, const WorkerView& worker) {
  if (request.ejected == nullptr) return false;
  const auto it = request.ejected->find(worker.instance);
  return it != request.ejected->end() && it->second == worker.generation;
}

// Of the ejected, those whose role and model others can fill.
EjectedInstances Dispensable(const RouteRequest& request,
                             const ClusterView& view) {
  EjectedInstances out;
  for (const WorkerView& worker : view.workers) {
    if (!IsOut(request, worker)) continue;
    const bool others = absl::c_any_of(view.workers, [&](const WorkerView& w) {
      return w.role == worker.role && w.model == worker.model && w.Usable() &&
             !IsOut(request, w);
    });
    if (others) out.emplace(worker.instance, worker.generation);
  }
  return out;
}

bool TakesPart(const RouteRequest& request, const Path& path) {
  const auto fits = [&](const WorkerView* w) {
    return w == nullptr || (w->model == request.model && !IsOut(request, *w) &&
                            (request.model_digest.empty() ||
                             w->model_digest == request.model_digest) &&
                            !absl::c_linear_search(request.avoid, w->instance));
  };
  if (!fits(path.decode) || !fits(path.prefill)) return false;
  if (request.pin.empty()) return true;
  return path.decode->instance == request.pin ||
         (path.prefill != nullptr && path.prefill->instance == request.pin);
}

void AddPairs(const RouteRequest& request, const ClusterView& view,
              std::vector<Path>& paths) {
  for (const WorkerView& decode : view.workers) {
    if (decode.role != WorkerRole::kDecode || !decode.Usable()) continue;
    for (const WorkerView& prefill : view.workers) {
      if (prefill.role != WorkerRole::kPrefill || !prefill.Usable() ||
          prefill.numerics_id != decode.numerics_id ||
          prefill.model_digest != decode.model_digest) {
        continue;
      }
      // One side may learn of a link a moment before the other.
      if (!decode.LinkedTo(prefill) && !prefill.LinkedTo(decode)) continue;
      const Path path{.decode = &decode, .prefill = &prefill};
      if (TakesPart(request, path)) paths.push_back(path);
    }
  }
}

void AddAlone(const RouteRequest& request, const ClusterView& view,
              WorkerRole role, std::vector<Path>& paths) {
  for (const WorkerView& worker : view.workers) {
    const Path path{.decode = &worker};
    if (worker.role == role && worker.Usable(/*without_peer=*/true) &&
        TakesPart(request, path)) {
      paths.push_back(path);
    }
  }
}

bool AnyLivePrefill(const RouteRequest& request, const ClusterView& view) {
  return absl::c_any_of(view.workers, [&](const WorkerView& w) {
    return w.role == WorkerRole::kPrefill && w.model == request.model &&
           w.Usable();
  });
}

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

uint64_t HashOf(absl::string_view text, uint64_t seed) {
  uint64_t h = 0xcbf29ce484222325u ^ seed;
  for (char c : text) {
    h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  return Mix(h);
}

// Rendezvous hashing: every router ranks the same workers alike.
uint64_t RankOf(uint64_t key, const Path& path) {
  uint64_t rank = HashOf(path.prompt_worker().instance, key);
  return path.prefill == nullptr ? rank : HashOf(path.decode->instance, rank);
}

struct Priced {
  Path path;
  double cost = 0;
};

// The session's own worker, if it is not much busier than the best.
const Priced* SessionChoice(const RouteRequest& request,
                            const std::vector<Priced>& priced, double best) {
  const uint64_t key = HashOf(request.session_id, 0);
  const auto rank = [&](const Priced& p) {
    return HashOf(p.path.prompt_worker().instance, key);
  };
  uint64_t top = 0;
  for (const Priced& p : priced) top = std::max(top, rank(p));
  const Priced* chosen = nullptr;
  for (const Priced& p : priced) {
    if (rank(p) != top || p.cost > best + kSessionSlackTokens) continue;
    if (chosen == nullptr || p.cost < chosen->cost) chosen = &p;
  }
  return chosen;
}

RouteDecision Decide(const RouteRequest& request,
                     const std::vector<Path>& paths,
                     const PromptCost& prompt_cost) {
  std::vector<Priced> priced;
  for (const Path& path : paths) {
    if (!HasCredit(request, path)) continue;
    priced.push_back({.path = path,
                      .cost = prompt_cost(request, path.prompt_worker()) +
                              DecodeCost(request, *path.decode)});
  }
  RouteDecision decision;
  decision.outcome = RouteDecision::Outcome::kWait;
  if (priced.empty()) return decision;
  const Priced* best = &priced.front();
  for (const Priced& p : priced) {
    if (p.cost < best->cost ||
        (p.cost == best->cost && RankOf(request.tie_break, p.path) >
                                     RankOf(request.tie_break, best->path))) {
      best = &p;
    }
  }
  decision.reason = RouteReason::kLoad;
  if (!request.session_id.empty()) {
    const Priced* own = SessionChoice(request, priced, best->cost);
    if (own != nullptr) {
      best = own;
      decision.reason = RouteReason::kSession;
    }
  }
  decision.outcome = RouteDecision::Outcome::kChosen;
  decision.decode = best->path.decode;
  decision.prefill = best->path.prefill;
  decision.cached_tokens = CachedOn(request, best->path.prompt_worker());
  if (paths.size() == 1) decision.reason = RouteReason::kOnlyOne;
  if (!request.pin.empty()) decision.reason = RouteReason::kPinned;
  return decision;
}

}  // namespace

double QueuedTokens(const RouteRequest& request, const WorkerView& worker) {
  return static_cast<double>(worker.load.waiting_tokens +
                             SpentOn(request, worker).prefill_tokens);
}

namespace {

RouteDecision Place(const RouteRequest& request, const ClusterView& view,
                    const PolicyOptions& options,
                    const PromptCost& prompt_cost) {
  std::vector<Path> mixed;
  std::vector<Path> pairs;
  if (request.placement != Placement::kDisaggregated) {
    AddAlone(request, view, WorkerRole::kMixed, mixed);
  }
  if (request.placement != Placement::kAggregated) {
    AddPairs(request, view, pairs);
  }
  const bool stays = request.placement == Placement::kAuto &&
                     request.prompt_tokens < options.min_disaggregated_tokens;
  if (stays && !mixed.empty()) pairs.clear();
  std::vector<Path> paths = std::move(mixed);
  paths.insert(paths.end(), pairs.begin(), pairs.end());
  if (!paths.empty()) return Decide(request, paths, prompt_cost);
  if (request.placement == Placement::kAuto && options.local_prefill_fallback &&
      !AnyLivePrefill(request, view)) {
    AddAlone(request, view, WorkerRole::kDecode, paths);
    if (!paths.empty()) {
      RouteDecision decision = Decide(request, paths, prompt_cost);
      decision.reason = RouteReason::kFallbackLocal;
      return decision;
    }
  }
  return {};
}

}  // namespace

RouteDecision ChoosePlacement(const RouteRequest& request,
                              const ClusterView& view,
                              const PolicyOptions& options,
                              const PromptCost& prompt_cost) {
  if (request.ejected == nullptr || request.ejected->empty()) {
    return Place(request, view, options, prompt_cost);
  }
  RouteRequest copy = request;
  const EjectedInstances ejected = Dispensable(request, view);
  copy.ejected = &ejected;
  const RouteDecision decision = Place(copy, view, options, prompt_cost);
  if (decision.outcome != RouteDecision::Outcome::kNoPath) return decision;
  // Better one that may fail than none.
  copy.ejected = nullptr;
  return Place(copy, view, options, prompt_cost);
}

}  // namespace sluice::router
