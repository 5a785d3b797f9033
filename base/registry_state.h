#ifndef BASE_REGISTRY_STATE_H_
#define BASE_REGISTRY_STATE_H_

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/metric_state.h"
#include "base/metrics.h"

// What a MetricRegistry holds; included by metrics.cc alone.
namespace sluice {

template <typename M>
constexpr MetricKind KindOf() {
  return std::is_same_v<M, Counter> ? MetricKind::kCounter
         : std::is_same_v<M, Gauge> ? MetricKind::kGauge
                                    : MetricKind::kHistogram;
}

// [a-zA-Z_][a-zA-Z0-9_]*, and colons where allowed.
bool IsMetricName(absl::string_view name, bool colon_allowed);

struct CallbackFamily final : FamilyReader {
  struct Series {
    MetricLabels labels;
    std::function<double()> read;
  };

  void Read(prometheus::MetricFamily& to) const override {
    std::vector<Series> now;
    {
      MutexLock lock(mu);
      now = series;
    }
    for (const Series& one : now) {
      prometheus::ClientMetric metric;
      for (const auto& [name, value] : one.labels) {
        metric.label.push_back({name, value});
      }
      const double value = one.read();
      (kind == MetricKind::kCounter ? metric.counter.value
                                    : metric.gauge.value) = value;
      to.metric.push_back(std::move(metric));
    }
  }

  mutable Mutex mu;
  std::vector<Series> series ABSL_GUARDED_BY(mu);
};

struct MetricRegistry::State {
  template <typename M>
  struct CellFamily final : FamilyReader {
    void Read(prometheus::MetricFamily& to) const override {
      const auto& state = *family->state_;
      for (auto* node = state.first.load(std::memory_order_acquire);
           node != nullptr; node = node->next.load(std::memory_order_acquire)) {
        prometheus::ClientMetric metric;
        for (size_t i = 0; i < label_names.size(); ++i) {
          metric.label.push_back({label_names[i], node->values[i]});
        }
        Write(*node->cell, metric);
        to.metric.push_back(std::move(metric));
      }
    }

    std::unique_ptr<MetricFamily<M>> family;
  };

  explicit State(int64_t max_series) : budget(max_series) {}

  // The family `name`, as the class F; made when new.
  template <typename F>
  F& Find(absl::string_view name, absl::string_view help, MetricKind kind,
          const std::vector<std::string>& label_names)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    auto it = families.find(name);
    if (it == families.end()) {
      SLUICE_CHECK(IsMetricName(name, true));
      // The library's serializer does not escape it.
      SLUICE_CHECK(help.find_first_of("\\\n") == absl::string_view::npos);
      SLUICE_CHECK(kind != MetricKind::kCounter ||
                   absl::EndsWith(name, "_total"));
      for (const auto& label : label_names) {
        SLUICE_CHECK(IsMetricName(label, false) && label != "le");
      }
      auto made = std::make_shared<F>();
      made->name = std::string(name);
      made->help = std::string(help);
      made->kind = kind;
      made->label_names = label_names;
      it = families.emplace(std::string(name), std::move(made)).first;
    }
    F* const family = dynamic_cast<F*>(it->second.get());
    SLUICE_CHECK(family != nullptr && family->kind == kind &&
                 family->label_names == label_names);
    return *family;
  }

  template <typename M>
  MetricFamily<M>& FindCells(absl::string_view name, absl::string_view help,
                             absl::Span<const double> bounds,
                             std::vector<std::string> label_names) {
    MutexLock lock(mu);
    auto& found = Find<CellFamily<M>>(name, help, KindOf<M>(), label_names);
    if (found.family == nullptr) {
      auto state = std::make_unique<typename MetricFamily<M>::State>();
      state->label_names = std::move(label_names);
      state->bounds.assign(bounds.begin(), bounds.end());
      state->budget = &budget;
      if (state->label_names.empty()) state->FindOrMake({});
      found.family.reset(new MetricFamily<M>(std::move(state)));
    }
    const std::vector<double>& had = found.family->state_->bounds;
    SLUICE_CHECK(
        std::is_sorted(had.begin(), had.end()) &&
        std::equal(had.begin(), had.end(), bounds.begin(), bounds.end()));
    return *found.family;
  }

  void AddCallback(absl::string_view name, absl::string_view help,
                   MetricKind kind, CallbackFamily::Series series) {
    std::vector<std::string> label_names;
    for (const auto& label : series.labels) label_names.push_back(label.first);
    MutexLock lock(mu);
    auto& family = Find<CallbackFamily>(name, help, kind, label_names);
    budget.num_series.fetch_add(1);
    MutexLock family_lock(family.mu);
    family.series.push_back(std::move(series));
  }

  SeriesBudget budget;
  const double created_seconds = SystemClock::Get().UnixMicros() * 1e-6;
  Mutex mu;
  std::map<std::string, std::shared_ptr<FamilyReader>, std::less<>> families
      ABSL_GUARDED_BY(mu);
  std::vector<std::function<void()>> updates ABSL_GUARDED_BY(mu);
};

}  // namespace sluice

#endif  // BASE_REGISTRY_STATE_H_
