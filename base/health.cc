#include "base/health.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice {
namespace {

constexpr char kLive[] = "live";
constexpr char kReady[] = "ready";

std::vector<std::string> KnownServices(std::vector<std::string> services) {
  services.insert(services.end(), {"", kReady, kLive});
  std::sort(services.begin(), services.end());
  services.erase(std::unique(services.begin(), services.end()), services.end());
  return services;
}

}  // namespace

HealthBoard::HealthBoard(HealthOptions options)
    : clock_(*options.clock),
      all_reasons_(std::move(options.reasons)),
      services_(KnownServices(std::move(options.services))) {
  MutexLock lock(mu_);
  for (const std::string& reason : all_reasons_) holds_[reason] = false;
  for (const std::string& reason : options.initial) {
    SLUICE_CHECK(holds_.count(reason) == 1);
    holds_[reason] = true;
  }
}

void HealthBoard::SetReason(absl::string_view reason, bool holds) {
  std::vector<std::function<void()>> listeners;
  {
    MutexLock lock(mu_);
    auto it = holds_.find(reason);
    SLUICE_CHECK(it != holds_.end());
    if (it->second == holds) return;
    it->second = holds;
    listeners = listeners_;
  }
  for (const auto& changed : listeners) changed();
}

void HealthBoard::AddReasonCheck(absl::string_view reason,
                                 std::function<bool()> holds) {
  MutexLock lock(mu_);
  SLUICE_CHECK(holds_.find(reason) != holds_.end());
  checks_.emplace(std::string{reason}, std::move(holds));
}

Heartbeat& HealthBoard::AddHeartbeat(std::string name, int64_t timeout_ms) {
  auto beat = std::make_unique<Heartbeat>(std::move(name), timeout_ms, clock_);
  MutexLock lock(mu_);
  heartbeats_.push_back(std::move(beat));
  return *heartbeats_.back();
}

bool HealthBoard::live() const { return dead_loops().empty(); }

std::vector<std::string> HealthBoard::reasons() const {
  // Checks run unlocked: they may take their owner's lock, under which that
  // owner may call SetReason().
  std::map<std::string, bool, std::less<>> holds;
  std::multimap<std::string, std::function<bool()>> checks;
  {
    MutexLock lock(mu_);
    holds = holds_;
    checks = checks_;
  }
  for (const auto& [reason, check] : checks) {
    bool& held = holds.find(reason)->second;
    held = held || check();
  }
  std::vector<std::string> result;
  for (const std::string& reason : all_reasons_) {
    if (holds.find(reason)->second) result.push_back(reason);
  }
  return result;
}

std::vector<std::string> HealthBoard::dead_loops() const {
  MutexLock lock(mu_);
  std::vector<std::string> dead;
  for (const auto& beat : heartbeats_) {
    if (!beat->alive()) dead.push_back(beat->name());
  }
  return dead;
}

ServingStatus HealthBoard::Status(absl::string_view service) const {
  if (!std::binary_search(services_.begin(), services_.end(), service)) {
    return ServingStatus::kUnknownService;
  }
  const bool serving = service == kLive ? live() : ready();
  return serving ? ServingStatus::kServing : ServingStatus::kNotServing;
}

std::vector<std::string> HealthBoard::services() const { return services_; }

void HealthBoard::AddListener(std::function<void()> changed) {
  MutexLock lock(mu_);
  listeners_.push_back(std::move(changed));
}

void HealthBoard::Export(MetricRegistry& registry) const {
  GaugeFamily& family = registry.AddGaugeFamily(
      "sluice_ready", "1 where the reason holds; reason ready: none does.",
      {"reason"});
  std::vector<std::pair<std::string, Gauge*>> gauges;
  for (const std::string& reason : all_reasons_) {
    gauges.emplace_back(reason, &family.With({reason}));
  }
  Gauge& ready = family.With({kReady});
  registry.BeforeScrape([this, gauges, &ready] {
    const std::vector<std::string> now = reasons();
    for (const auto& [reason, gauge] : gauges) {
      gauge->Set(std::count(now.begin(), now.end(), reason) > 0 ? 1 : 0);
    }
    ready.Set(now.empty() ? 1 : 0);
  });
}

}  // namespace sluice
