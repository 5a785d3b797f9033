#include "router/flow/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/grpc_status.h"
#include "base/random.h"

namespace sluice::router {
namespace {

constexpr int64_t kMinRetryMs = 50;
constexpr int64_t kMaxRetryMs = 30'000;
// Before anything is known: one report interval.
constexpr double kFirstIntervalUs = 200'000;
// No worker now: about the time one takes to come back.
constexpr int64_t kNoPathRetryUs = 1'000'000;

int64_t WithJitter(int64_t us) {
  const int64_t ms = std::clamp(us / 1000, kMinRetryMs, kMaxRetryMs);
  // +-20 %, so that refused clients do not return together.
  const double factor =
      0.8 + 0.4 * static_cast<double>(RandomU64() >> 11) * 0x1p-53;
  return std::clamp(static_cast<int64_t>(static_cast<double>(ms) * factor),
                    kMinRetryMs, kMaxRetryMs);
}

}  // namespace

SpentCredits CreditsFor(const RouteRequest& request, const WorkerView& worker,
                        bool computes_prompt, bool decodes) {
  const uint64_t block_tokens = std::max<uint32_t>(worker.block_tokens, 1);
  const auto blocks = [&](uint64_t tokens) {
    return (tokens + block_tokens - 1) / block_tokens;
  };
  SpentCredits credits;
  credits.slots = decodes ? request.num_choices : 1;
  credits.blocks = blocks(request.prompt_tokens);
  if (decodes) {
    credits.blocks += request.num_choices * blocks(request.reserve_tokens);
  }
  if (computes_prompt) {
    auto it = request.cached_tokens.find(worker.instance);
    const uint32_t cached = it == request.cached_tokens.end() ? 0 : it->second;
    credits.prefill_tokens =
        request.prompt_tokens - std::min(cached, request.prompt_tokens);
  }
  return credits;
}

absl::StatusOr<uint64_t> Admission::Enter(AdmissionRequest request) {
  uint64_t id = 0;
  Grant grant;
  {
    MutexLock lock(mu_);
    const std::string model = request.route.model;
    Line& line = lines_.try_emplace(model, options_.limits).first->second;
    const SnapshotRef<ClusterView> view = options_.view();
    DropCovered(*view);
    const int64_t begin_us = options_.clock->NowMicros();
    const RouteDecision decision = Choose(request.route, *view);
    const int64_t route_us = options_.clock->NowMicros() - begin_us;
    if (decision.outcome == RouteDecision::Outcome::kNoPath) {
      return Refuse(model, "no_path",
                    absl::UnavailableError("no worker for this request"),
                    kNoPathRetryUs);
    }
    id = next_id_++;
    if (decision.outcome == RouteDecision::Outcome::kChosen &&
        line.queue.empty()) {
      grant = Take(request.route, decision, view);
      grant.route_us = route_us;
      NoteGrant(line);
    } else {
      if (absl::Status status = CheckRoom(request, line); !status.ok()) {
        return status;
      }
      line.queue.Push({.id = id,
                       .priority = request.priority,
                       .tenant = request.tenant,
                       .deadline_us = request.deadline_us,
                       .since_us = options_.clock->NowMicros(),
                       .tokens = request.route.prompt_tokens,
                       .bytes = request.bytes});
      waiting_.emplace(id,
                       Waiting{.request = std::move(request), .model = model});
      return id;
    }
  }
  request.on_decided(std::move(grant));
  return id;
}

absl::Status Admission::CheckRoom(const AdmissionRequest& request, Line& line) {
  const std::string& model = request.route.model;
  const int64_t wait_us = WaitEstimateUs(line);
  if (!line.queue.HasRoom(request.route.prompt_tokens, request.bytes)) {
    return Refuse(model, "queue_full",
                  absl::ResourceExhaustedError("the router's queue is full"),
                  wait_us);
  }
  if (options_.clock->NowMicros() + wait_us > request.deadline_us) {
    return Refuse(
        model, "queue_deadline",
        absl::ResourceExhaustedError(absl::StrCat(
            "would wait about ", wait_us / 1000, " ms, past its deadline")),
        wait_us);
  }
  return absl::OkStatus();
}

absl::Status Admission::Refuse(const std::string& model,
                               absl::string_view reason, absl::Status status,
                               int64_t delay_us) const {
  if (options_.on_rejection) options_.on_rejection(model, reason);
  const absl::string_view word = reason == "queue_full"       ? "QUEUE_FULL"
                                 : reason == "queue_deadline" ? "QUEUE_DEADLINE"
                                                              : "NO_PATH";
  return WithRetry(WithReason(std::move(status), word), WithJitter(delay_us));
}

int64_t Admission::WaitEstimateUs(const Line& line) const {
  const double interval =
      line.grant_interval_us > 0 ? line.grant_interval_us : kFirstIntervalUs;
  return static_cast<int64_t>(interval *
                              static_cast<double>(line.queue.size() + 1));
}

void Admission::NoteGrant(Line& line) {
  const int64_t now_us = options_.clock->NowMicros();
  // Only what is paced by credits says how fast a queue moves.
  if (line.last_grant_us != 0 && !line.queue.empty()) {
    const double interval = static_cast<double>(now_us - line.last_grant_us);
    line.grant_interval_us =
        line.grant_interval_us == 0
            ? interval
            : 0.9 * line.grant_interval_us + 0.1 * interval;
  }
  line.last_grant_us = now_us;
}

bool Admission::Leave(uint64_t id) {
  Waiting gone;  // destroyed without the lock
  MutexLock lock(mu_);
  auto it = waiting_.find(id);
  if (it == waiting_.end()) return false;
  gone = std::move(it->second);
  waiting_.erase(it);
  lines_.find(gone.model)->second.queue.Remove(id);
  return true;
}

RouteDecision Admission::Choose(RouteRequest& route, const ClusterView& view) {
  route.spent = &spent_;
  EjectedInstances ejected;
  if (options_.ejections != nullptr) ejected = options_.ejections->Now();
  route.ejected = &ejected;
  const RouteDecision decision = options_.policy->Choose(route, view);
  route.ejected = nullptr;
  return decision;
}

Grant Admission::Take(const RouteRequest& route, const RouteDecision& decision,
                      SnapshotRef<ClusterView> view) {
  Grant grant{.decision = decision, .view = std::move(view)};
  if (options_.ejections != nullptr) {
    options_.ejections->OnChosen(decision.decode->instance);
    if (decision.prefill != nullptr) {
      options_.ejections->OnChosen(decision.prefill->instance);
    }
  }
  const bool alone = decision.prefill == nullptr;
  grant.decode_spend =
      Spent(*decision.decode, CreditsFor(route, *decision.decode, alone, true));
  if (!alone) {
    grant.prefill_spend = Spent(
        *decision.prefill, CreditsFor(route, *decision.prefill, true, false));
  }
  return grant;
}

uint64_t Admission::Spent(const WorkerView& worker,
                          const SpentCredits& credits) {
  const uint64_t id = next_id_++;
  spends_.emplace(id, Spend{.instance = worker.instance,
                            .generation = worker.generation,
                            .credits = credits});
  SpentCredits& sum = spent_[worker.instance];
  sum.blocks += credits.blocks;
  sum.prefill_tokens += credits.prefill_tokens;
  sum.slots += credits.slots;
  return id;
}

void Admission::Forget(uint64_t spend) {
  auto it = spends_.find(spend);
  if (it == spends_.end()) return;
  auto sum = spent_.find(it->second.instance);
  sum->second.blocks -= it->second.credits.blocks;
  sum->second.prefill_tokens -= it->second.credits.prefill_tokens;
  sum->second.slots -= it->second.credits.slots;
  if (sum->second.slots == 0) spent_.erase(sum);
  spends_.erase(it);
}

void Admission::Settle(uint64_t spend) {
  const SnapshotRef<ClusterView> view = options_.view();
  MutexLock lock(mu_);
  auto it = spends_.find(spend);
  if (it == spends_.end() || it->second.settled) return;
  const WorkerView* worker = view->Find(it->second.instance);
  it->second.settled = true;
  it->second.reports_at_settle = worker == nullptr ? 0 : worker->num_reports;
}

void Admission::Release(uint64_t spend) {
  if (spend == 0) return;
  MutexLock lock(mu_);
  Forget(spend);
}

// A spend is covered by the first report after its request was taken, and is
// void when its process is gone.
void Admission::DropCovered(const ClusterView& view) {
  std::vector<uint64_t> covered;
  for (const auto& [id, spend] : spends_) {
    const WorkerView* worker = view.Find(spend.instance);
    if (worker == nullptr || worker->generation != spend.generation ||
        (spend.settled && worker->num_reports > spend.reports_at_settle)) {
      covered.push_back(id);
    }
  }
  for (uint64_t id : covered) Forget(id);
}

void Admission::Pump() {
  std::vector<Call> calls;
  {
    MutexLock lock(mu_);
    if (waiting_.empty()) return;
    const SnapshotRef<ClusterView> view = options_.view();
    DropCovered(*view);
    for (auto& [model, line] : lines_) PumpLine(line, view, calls);
  }
  for (const Call& call : calls) call();
}

void Admission::PumpLine(Line& line, const SnapshotRef<ClusterView>& view,
                         std::vector<Call>& calls) {
  while (const WaitEntry* entry = line.queue.Next()) {
    const uint64_t id = entry->id;
    auto it = waiting_.find(id);
    SLUICE_CHECK(it != waiting_.end());
    AdmissionRequest& request = it->second.request;
    const RouteDecision decision = Choose(request.route, *view);
    if (decision.outcome == RouteDecision::Outcome::kWait) return;
    absl::StatusOr<Grant> result =
        decision.outcome == RouteDecision::Outcome::kNoPath
            ? absl::StatusOr<Grant>(
                  Refuse(request.route.model, "no_path",
                         absl::UnavailableError("no worker for this request"),
                         kNoPathRetryUs))
            : absl::StatusOr<Grant>(Take(request.route, decision, view));
    if (result.ok()) NoteGrant(line);
    calls.push_back([result = std::move(result),
                     done = std::move(request.on_decided)]() mutable {
      done(std::move(result));
    });
    line.queue.Remove(id);
    waiting_.erase(it);
  }
}

std::vector<Admission::QueueStats> Admission::Stats() const {
  const int64_t now_us = options_.clock->NowMicros();
  MutexLock lock(mu_);
  std::vector<QueueStats> stats;
  for (const auto& [model, line] : lines_) {
    const int64_t since_us = line.queue.oldest_since_us();
    stats.push_back({.model = model,
                     .requests = line.queue.size(),
                     .tokens = line.queue.tokens(),
                     .bytes = line.queue.bytes(),
                     .oldest_seconds =
                         since_us == 0
                             ? 0
                             : static_cast<double>(now_us - since_us) * 1e-6});
  }
  return stats;
}

size_t Admission::num_spends() const {
  MutexLock lock(mu_);
  return spends_.size();
}

}  // namespace sluice::router
