#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/metric_state.h"
#include "base/metrics.h"

namespace sluice {
namespace {

constexpr char kOther[] = "other";

// No two lists of values have the same key.
std::string KeyOf(const std::vector<std::string>& values) {
  std::string key;
  for (const std::string& v : values) absl::StrAppend(&key, v.size(), ":", v);
  return key;
}

template <typename M>
std::unique_ptr<M> MakeCell(const std::vector<double>& bounds) {
  if constexpr (std::is_same_v<M, Histogram>) {
    return std::make_unique<Histogram>(bounds);
  } else {
    return std::make_unique<M>();
  }
}

}  // namespace

int64_t NumLines(const Counter&) { return 1; }
int64_t NumLines(const Gauge&) { return 1; }
int64_t NumLines(const Histogram& cell) {
  return static_cast<int64_t>(cell.bounds().size()) + 3;  // +Inf, sum, count
}

void Write(const Counter& cell, prometheus::ClientMetric& to) {
  to.counter.value = static_cast<double>(cell.value());
}

void Write(const Gauge& cell, prometheus::ClientMetric& to) {
  to.gauge.value = cell.value();
}

void Write(const Histogram& cell, prometheus::ClientMetric& to) {
  to.histogram.sample_sum = cell.sum();
  uint64_t total = 0;
  for (size_t i = 0; i <= cell.bounds().size(); ++i) {
    total += cell.bucket_count(i);
    to.histogram.bucket.push_back(
        {total, i < cell.bounds().size()
                    ? cell.bounds()[i]
                    : std::numeric_limits<double>::infinity()});
  }
  to.histogram.sample_count = total;
}

bool SeriesBudget::Take(int64_t n) {
  if (num_series.fetch_add(n) + n <= max_series) return true;
  num_series.fetch_sub(n);
  return false;
}

std::string SeriesBudget::Bounded(const std::string& label, std::string value) {
  MutexLock lock(mu);
  auto it = bounds.find(label);
  if (it == bounds.end()) return value;
  Bound& bound = it->second;
  if (bound.values.count(value) > 0) return value;
  if (bound.values.size() >= bound.max_values) return kOther;
  bound.values.insert(value);
  return value;
}

template <typename M>
M& MetricFamily<M>::State::FindOrMake(std::vector<std::string> values) {
  const std::string key = KeyOf(values);
  MutexLock lock(mu);
  if (auto it = by_key.find(key); it != by_key.end()) return *it->second;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = budget->Bounded(label_names[i], std::move(values[i]));
  }
  const std::string bounded_key = KeyOf(values);
  if (auto it = by_key.find(bounded_key); it != by_key.end()) {
    if (bounded_key != key) budget->dropped.Add();
    return *it->second;
  }
  const int64_t num_lines = NumLines(*MakeCell<M>(bounds));
  if (budget->Take(num_lines)) {
    if (bounded_key != key) budget->dropped.Add();
    return Append(bounded_key, values);
  }
  // Full. The one series of "other" per family is the price of staying true.
  budget->dropped.Add();
  std::fill(values.begin(), values.end(), kOther);
  const std::string other_key = KeyOf(values);
  if (auto it = by_key.find(other_key); it != by_key.end()) return *it->second;
  budget->num_series.fetch_add(num_lines);
  return Append(other_key, values);
}

template <typename M>
M& MetricFamily<M>::State::Append(const std::string& key,
                                  const std::vector<std::string>& values) {
  auto node = std::make_unique<Node>();
  node->values = values;
  node->cell = MakeCell<M>(bounds);
  M& cell = *node->cell;
  by_key[key] = &cell;
  std::atomic<Node*>& link = nodes.empty() ? first : nodes.back()->next;
  link.store(node.get(), std::memory_order_release);
  nodes.push_back(std::move(node));
  return cell;
}

template <typename M>
MetricFamily<M>::MetricFamily(std::unique_ptr<State> state)
    : state_(std::move(state)) {}

template <typename M>
MetricFamily<M>::~MetricFamily() = default;

template <typename M>
M& MetricFamily<M>::With(absl::Span<const absl::string_view> values) {
  SLUICE_CHECK(values.size() == state_->label_names.size());
  return state_->FindOrMake({values.begin(), values.end()});
}

template <typename M>
void MetricFamily<M>::CreateAll(
    const std::vector<std::vector<absl::string_view>>& values) {
  SLUICE_CHECK(values.size() == state_->label_names.size());
  for (const auto& of_label : values) {
    if (of_label.empty()) return;
  }
  std::vector<size_t> index(values.size(), 0);
  for (;;) {
    std::vector<std::string> combination;
    for (size_t i = 0; i < values.size(); ++i) {
      combination.emplace_back(values[i][index[i]]);
    }
    state_->FindOrMake(std::move(combination));
    size_t i = 0;
    while (i < index.size() && ++index[i] == values[i].size()) index[i++] = 0;
    if (i == index.size()) return;
  }
}

template class MetricFamily<Counter>;
template class MetricFamily<Gauge>;
template class MetricFamily<Histogram>;

}  // namespace sluice
