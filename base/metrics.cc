#include "base/metrics.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/metrics_text.h"
#include "base/registry_state.h"

namespace sluice {
namespace {

prometheus::MetricType TypeOf(MetricKind kind) {
  return kind == MetricKind::kCounter ? prometheus::MetricType::Counter
         : kind == MetricKind::kGauge ? prometheus::MetricType::Gauge
                                      : prometheus::MetricType::Histogram;
}

void SplitLabels(const MetricLabels& labels, std::vector<std::string>& names,
                 std::vector<absl::string_view>& values) {
  for (const auto& [name, value] : labels) {
    names.push_back(name);
    values.push_back(value);
  }
}

}  // namespace

bool IsMetricName(absl::string_view name, bool colon_allowed) {
  const auto fits = [colon_allowed](char c) {
    return absl::ascii_isalnum(c) || c == '_' || (c == ':' && colon_allowed);
  };
  return !name.empty() && !absl::ascii_isdigit(name[0]) &&
         std::all_of(name.begin(), name.end(), fits);
}

MetricRegistry::MetricRegistry(int64_t max_series)
    : state_(std::make_unique<State>(max_series)) {
  AddCallbackCounter(
      "sluice_metrics_dropped_series_total",
      "Look-ups of series that were folded into the label value other.", {},
      [budget = &state_->budget] {
        return static_cast<double>(budget->dropped.value());
      });
}

MetricRegistry::~MetricRegistry() = default;

Counter& MetricRegistry::AddCounter(absl::string_view name,
                                    absl::string_view help,
                                    const MetricLabels& labels) {
  std::vector<std::string> names;
  std::vector<absl::string_view> values;
  SplitLabels(labels, names, values);
  return AddCounterFamily(name, help, std::move(names)).With(values);
}

Gauge& MetricRegistry::AddGauge(absl::string_view name, absl::string_view help,
                                const MetricLabels& labels) {
  std::vector<std::string> names;
  std::vector<absl::string_view> values;
  SplitLabels(labels, names, values);
  return AddGaugeFamily(name, help, std::move(names)).With(values);
}

Histogram& MetricRegistry::AddHistogram(absl::string_view name,
                                        absl::string_view help,
                                        absl::Span<const double> bounds,
                                        const MetricLabels& labels) {
  std::vector<std::string> names;
  std::vector<absl::string_view> values;
  SplitLabels(labels, names, values);
  return AddHistogramFamily(name, help, bounds, std::move(names)).With(values);
}

CounterFamily& MetricRegistry::AddCounterFamily(
    absl::string_view name, absl::string_view help,
    std::vector<std::string> label_names) {
  return state_->FindCells<Counter>(name, help, {}, std::move(label_names));
}

GaugeFamily& MetricRegistry::AddGaugeFamily(
    absl::string_view name, absl::string_view help,
    std::vector<std::string> label_names) {
  return state_->FindCells<Gauge>(name, help, {}, std::move(label_names));
}

HistogramFamily& MetricRegistry::AddHistogramFamily(
    absl::string_view name, absl::string_view help,
    absl::Span<const double> bounds, std::vector<std::string> label_names) {
  return state_->FindCells<Histogram>(name, help, bounds,
                                      std::move(label_names));
}

void MetricRegistry::AddCallbackCounter(absl::string_view name,
                                        absl::string_view help,
                                        const MetricLabels& labels,
                                        std::function<double()> read) {
  state_->AddCallback(name, help, MetricKind::kCounter,
                      {labels, std::move(read)});
}

void MetricRegistry::AddCallbackGauge(absl::string_view name,
                                      absl::string_view help,
                                      const MetricLabels& labels,
                                      std::function<double()> read) {
  state_->AddCallback(name, help, MetricKind::kGauge,
                      {labels, std::move(read)});
}

void MetricRegistry::BeforeScrape(std::function<void()> update) {
  MutexLock lock(state_->mu);
  state_->updates.push_back(std::move(update));
}

void MetricRegistry::BoundLabel(absl::string_view label_name,
                                size_t max_values) {
  MutexLock lock(state_->budget.mu);
  state_->budget.bounds[std::string{label_name}].max_values = max_values;
}

std::vector<prometheus::MetricFamily> MetricRegistry::Collect() {
  std::vector<std::function<void()>> updates;
  std::vector<std::shared_ptr<FamilyReader>> families;
  {
    MutexLock lock(state_->mu);
    updates = state_->updates;
    for (const auto& [name, family] : state_->families) {
      families.push_back(family);
    }
  }
  for (const auto& update : updates) update();
  std::vector<prometheus::MetricFamily> result;
  result.reserve(families.size());
  for (const auto& family : families) {
    prometheus::MetricFamily read;
    family->Read(read);
    if (read.metric.empty()) continue;
    read.name = family->name;
    read.help = family->help;
    read.type = TypeOf(family->kind);
    result.push_back(std::move(read));
  }
  return result;
}

std::string MetricRegistry::TextExposition() {
  return SerializeText(Collect());
}

std::string MetricRegistry::OpenMetricsExposition() {
  return SerializeOpenMetrics(Collect(), state_->created_seconds);
}

}  // namespace sluice
