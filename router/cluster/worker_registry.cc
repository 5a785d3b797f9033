#include "router/cluster/worker_registry.h"

#include <grpcpp/channel.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/thread.h"
#include "router/cluster/load_report.h"

namespace sluice::router {
namespace {

constexpr std::chrono::milliseconds kTurn(50);
constexpr std::chrono::milliseconds kEagerTurn(10);  // a worker may be starting
constexpr int64_t kCardRetryMs = 2000;
constexpr std::chrono::milliseconds kLinksTimeout(5000);

}  // namespace

void WorkerRegistry::Shared::CallOpened() {
  MutexLock lock(mu);
  ++open_calls;
}

void WorkerRegistry::Shared::CallClosed() {
  MutexLock lock(mu);
  if (--open_calls == 0) idle.NotifyAll();
}

absl::StatusOr<WorkerRegistry::CardFacts> WorkerRegistry::Shared::Build(
    absl::StatusOr<CardFetch::Card> card) {
  if (!card.ok()) return card.status();
  CardFacts facts{.served = nullptr,
                  .kv_fingerprint = card->card.kv_hash_root_fingerprint(),
                  .block_tokens = card->card.block_tokens(),
                  .numerics_id = card->card.numerics_id()};
  {
    MutexLock lock(mu);
    // Workers that start together have equal cards: one builds, all share.
    while (building.contains(card->sha256)) was_built.Wait(mu);
    facts.served = built[card->sha256].lock();
    if (facts.served != nullptr) return facts;
    building.insert(card->sha256);
  }
  auto served = ServedModel::FromCard(card->card);
  MutexLock lock(mu);
  building.erase(card->sha256);
  was_built.NotifyAll();
  if (!served.ok()) return served.status();
  facts.served = *served;
  std::erase_if(built, [](const auto& b) { return b.second.expired(); });
  built[card->sha256] = *served;
  return facts;
}

WorkerRegistry::Links::~Links() {
  if (!live.AwaitNone(kLinksTimeout)) {
    Log(kWarn, "calls to workers outlive the registry", {});
  }
}

WorkerRegistry::WorkerRegistry(RegistryOptions options)
    : options_(std::move(options)) {}

WorkerRegistry::~WorkerRegistry() { Stop(); }

void WorkerRegistry::Start() {
  resolver_ = std::make_unique<Resolver>(ResolverOptions{
      .fixed = options_.fixed,
      .dns = options_.dns,
      .on_change = [shared = shared_](std::vector<std::string> addresses) {
        shared->inbox.Push(TargetsEvent{std::move(addresses)});
      }});
  resolver_->Start();
  thread_ = StartThread("control",
                        [this](const std::stop_token& stop) { Run(stop); });
}

void WorkerRegistry::Stop() {
  if (resolver_ != nullptr) resolver_->Stop();
  if (thread_.joinable()) {
    thread_.request_stop();
    thread_.join();
  }
  for (auto& [address, site] : sites_) {
    if (site.stream != nullptr) site.stream->Cancel();
    if (site.fetch != nullptr) site.fetch->Cancel();
  }
  MutexLock lock(shared_->mu);
  while (shared_->open_calls > 0) shared_->idle.Wait(shared_->mu);
}

void WorkerRegistry::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    for (Event& event : shared_->inbox.Drain(eager_ ? kEagerTurn : kTurn)) {
      std::visit([this](auto& e) { Handle(e); }, event);
    }
    Tick();
    if (std::exchange(changed_, false)) Publish();
    if (options_.on_tick) options_.on_tick();
  }
}

void WorkerRegistry::Handle(TargetsEvent& event) {
  for (auto& [address, site] : sites_) {
    site.wanted = std::binary_search(event.addresses.begin(),
                                     event.addresses.end(), address);
    UpdatePhase(site, "membership");
  }
  for (const std::string& address : event.addresses) {
    auto [it, added] = sites_.try_emplace(address, options_.silent_ms);
    if (added) it->second.link = MakeWorkerLink(address, links_.live);
  }
  changed_ = true;
}

void WorkerRegistry::Handle(ReportEvent& event) {
  auto it = sites_.find(event.address);
  if (it == sites_.end() || it->second.stream_id != event.stream_id) return;
  Site& site = it->second;
  if (absl::Status status = CheckReport(event.report); !status.ok()) {
    Log(kError, "worker report refused",
        {{"peer", event.address}, {"cause", status.message()}});
    site.stream->Cancel();
    return;
  }
  if (event.report.identity().instance() == site.view.instance &&
      event.report.identity().generation() < site.view.generation) {
    return;  // a message of an older process
  }
  site.health.OnReport(NowMs());
  if (options_.on_unknown_fields &&
      !event.report.GetReflection()->GetUnknownFields(event.report).empty()) {
    options_.on_unknown_fields();
  }
  TakeReport(site, event.report);
  if (site.view.generation != site.fetch_generation) {
    FetchCard(event.address, site);
  }
  changed_ = true;
}

void WorkerRegistry::TakeReport(Site& site, const v1::WorkerReport& report) {
  const v1::Identity& identity = report.identity();
  const bool replaced = identity.instance() != site.view.instance ||
                        identity.generation() != site.view.generation;
  if (replaced) {
    if (site.view.generation != 0) {
      Log(kInfo, "worker replaced",
          {{"peer", site.link->address},
           {"before", site.view.instance},
           {"before_generation", site.view.generation},
           {"after", identity.instance()},
           {"after_generation", identity.generation()}});
      ReportLost(site);
    }
    site.view = WorkerView{};
    site.view.link = site.link;
    site.view.phase = WorkerPhase::kStarting;
  } else {
    site.lost_generation = 0;  // it answers again: its next silence counts too
  }
  const WorkerPhase before = site.view.phase;
  ApplyReport(report, site.view);
  site.reported = site.view.phase;
  site.view.phase = before;
  UpdatePhase(site, replaced ? "new process" : "report");
  if (report.has_events() || site.first_report) {
    v1::KvEvents events = report.events();
    // Whatever was known before this stream may be stale.
    if (site.first_report) events.set_cleared(true);
    site.first_report = false;
    if (options_.on_kv_events) {
      options_.on_kv_events(site.view.instance, events);
    }
  }
}

void WorkerRegistry::Handle(EndedEvent& event) {
  auto it = sites_.find(event.address);
  if (it == sites_.end() || it->second.stream_id != event.stream_id) return;
  Site& site = it->second;
  site.stream = nullptr;
  site.health.OnEnd(NowMs());
  UpdatePhase(site, event.status.message());
  if (site.view.generation != 0 && options_.on_cache_gone) {
    options_.on_cache_gone(site.view.instance);
  }
  changed_ = true;
}

void WorkerRegistry::Handle(CardEvent& event) {
  auto it = sites_.find(event.address);
  if (it == sites_.end()) return;
  Site& site = it->second;
  if (event.generation != site.view.generation) return;
  site.fetch = nullptr;
  if (event.facts.ok() &&
      event.facts->served->digest() != site.view.model_digest) {
    event.facts = absl::FailedPreconditionError(
        "model card and report name different digests");
  }
  if (!event.facts.ok()) {
    Log(kError, "model card refused",
        {{"peer", event.address},
         {"cause", event.facts.status().message()},
         {"retry_ms", kCardRetryMs}});
    site.fetch_retry_at_ms = NowMs() + kCardRetryMs;
    return;
  }
  site.view.served = event.facts->served;
  site.view.kv_fingerprint = event.facts->kv_fingerprint;
  site.view.block_tokens = event.facts->block_tokens;
  changed_ = true;
}

void WorkerRegistry::Tick() {
  const int64_t now_ms = NowMs();
  eager_ = false;
  for (auto it = sites_.begin(); it != sites_.end();) {
    auto& [address, site] = *it;
    eager_ = eager_ || (site.wanted && site.health.Eager(now_ms));
    if (site.stream == nullptr) {
      if (!site.wanted && site.fetch == nullptr) {
        it = sites_.erase(it);
        changed_ = true;
        continue;
      }
      if (site.wanted && site.health.RetryDue(now_ms)) {
        OpenStream(address, site);
      }
    }
    if (site.fetch_retry_at_ms != 0 && now_ms >= site.fetch_retry_at_ms &&
        site.stream != nullptr) {
      FetchCard(address, site);
    }
    UpdatePhase(site, "silence");
    if (site.view.generation != 0 &&
        site.health.At(now_ms) == StreamHealth::Verdict::kSilent &&
        site.health.silence_ms(now_ms) >= options_.lost_ms) {
      ReportLost(site);
    }
    ++it;
  }
}

void WorkerRegistry::ReportLost(Site& site) {
  if (site.lost_generation == site.view.generation) return;
  site.lost_generation = site.view.generation;
  if (options_.on_lost) {
    options_.on_lost(site.view.instance, site.view.generation);
  }
}

// What the report says, unless the stream says more.
void WorkerRegistry::UpdatePhase(Site& site, absl::string_view cause) {
  if (site.view.generation == 0) return;
  WorkerPhase phase = site.reported;
  switch (site.health.At(NowMs())) {
    case StreamHealth::Verdict::kDown:
      phase = WorkerPhase::kLost;
      break;
    case StreamHealth::Verdict::kSilent:
      phase = WorkerPhase::kSilent;
      break;
    case StreamHealth::Verdict::kUp:
      if (!site.wanted && phase == WorkerPhase::kServing) {
        phase = WorkerPhase::kDraining;
      }
      break;
  }
  if (phase == site.view.phase) return;
  const bool bad = phase == WorkerPhase::kLost || phase == WorkerPhase::kSilent;
  Log(bad ? kWarn : kInfo, "worker state",
      {{"peer", site.view.instance},
       {"before", PhaseName(site.view.phase)},
       {"after", PhaseName(phase)},
       {"cause", cause}});
  site.view.phase = phase;
  changed_ = true;
}

void WorkerRegistry::OpenStream(const std::string& address, Site& site) {
  site.stream_id = next_stream_id_++;
  site.first_report = true;
  shared_->CallOpened();
  // How long to wait is decided here alone, not by the channel as well.
  grpc::experimental::ChannelResetConnectionBackoff(site.link->channel.get());
  site.stream = ReportStream::Start(
      site.link, options_.router_id,
      {.on_report =
           [shared = shared_, address,
            id = site.stream_id](v1::WorkerReport report) {
             shared->inbox.Push(ReportEvent{address, id, std::move(report)});
           },
       .on_end =
           [shared = shared_, address,
            id = site.stream_id](absl::Status status) {
             shared->inbox.Push(EndedEvent{address, id, std::move(status)});
             shared->CallClosed();
           }});
}

void WorkerRegistry::FetchCard(const std::string& address, Site& site) {
  if (site.fetch != nullptr) site.fetch->Cancel();
  site.fetch_generation = site.view.generation;
  site.fetch_retry_at_ms = 0;
  shared_->CallOpened();
  // The model is built on gRPC's thread: the control thread must not stop
  // for the time a vocabulary takes.
  site.fetch = CardFetch::Start(
      site.link,
      [shared = shared_, address, generation = site.fetch_generation](
          absl::StatusOr<CardFetch::Card> card) {
        shared->inbox.Push(
            CardEvent{address, generation, shared->Build(std::move(card))});
        shared->CallClosed();
      });
}

void WorkerRegistry::PickModels(ClusterView& view) const {
  const SnapshotRef<ClusterView> published = view_.Get();
  view.models = published->models;
  const auto serves = [&](const std::shared_ptr<const ServedModel>& model) {
    return std::any_of(
        view.workers.begin(), view.workers.end(), [&](const WorkerView& w) {
          return w.phase == WorkerPhase::kServing && w.served != nullptr &&
                 w.served->name() == model->name() &&
                 w.served->digest() == model->digest();
        });
  };
  for (const WorkerView& worker : view.workers) {
    if (worker.served == nullptr) continue;
    auto [it, added] =
        view.models.try_emplace(worker.served->name(), worker.served);
    if (!added && worker.phase == WorkerPhase::kServing &&
        !serves(it->second)) {
      it->second = worker.served;
    }
  }
}

void WorkerRegistry::Publish() {
  ClusterView view;
  std::map<std::string, const WorkerView*> chosen;
  const auto rank = [](const WorkerView& w) {
    return std::make_pair(w.phase != WorkerPhase::kLost, w.generation);
  };
  for (const auto& [address, site] : sites_) {
    if (site.view.generation == 0) continue;
    auto [it, added] = chosen.try_emplace(site.view.instance, &site.view);
    if (!added && rank(site.view) > rank(*it->second)) {
      it->second = &site.view;
    }
  }
  for (const auto& [instance, worker] : chosen) {
    view.workers.push_back(*worker);
  }
  PickModels(view);
  view_.Publish(std::move(view));
  if (options_.on_publish) options_.on_publish();
}

}  // namespace sluice::router
