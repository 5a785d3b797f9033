#ifndef BASE_METRIC_STATE_H_
#define BASE_METRIC_STATE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/metrics.h"
#include "base/mutex.h"
#include "prometheus/metric_family.h"

// What metrics.cc and metric_family.cc share; included by no one else.
namespace sluice {

// How many lines of the exposition a series takes, and how a cell is written
// into one of the library's series.
int64_t NumLines(const Counter& cell);
int64_t NumLines(const Gauge& cell);
int64_t NumLines(const Histogram& cell);
void Write(const Counter& cell, prometheus::ClientMetric& to);
void Write(const Gauge& cell, prometheus::ClientMetric& to);
void Write(const Histogram& cell, prometheus::ClientMetric& to);

// Limits of the whole registry, shared by its families. Thread-safe.
struct SeriesBudget {
  explicit SeriesBudget(int64_t max) : max_series(max) {}

  // Takes `n` lines; false when they do not fit.
  bool Take(int64_t n);
  // `value`, or "other" when the label's bound is reached.
  std::string Bounded(const std::string& label, std::string value);

  const int64_t max_series;
  std::atomic<int64_t> num_series{0};
  Counter dropped;
  Mutex mu;
  struct Bound {
    size_t max_values;
    std::unordered_set<std::string> values;
  };
  std::unordered_map<std::string, Bound> bounds ABSL_GUARDED_BY(mu);
};

// A family as the registry sees it: something to read at a scrape.
struct FamilyReader {
  std::string name, help;
  MetricKind kind;
  std::vector<std::string> label_names;  // of the first series, for the check
  virtual ~FamilyReader() = default;
  // Appends the series to `to.metric`. Waits for no one.
  virtual void Read(prometheus::MetricFamily& to) const = 0;
};

template <typename M>
struct MetricFamily<M>::State {
  // Series form a list that only grows at its end, so that a scrape walks it
  // without a lock.
  struct Node {
    std::vector<std::string> values;
    std::unique_ptr<M> cell;
    std::atomic<Node*> next{nullptr};
  };

  M& FindOrMake(std::vector<std::string> values);
  M& Append(const std::string& key, const std::vector<std::string>& values)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  std::vector<std::string> label_names;
  std::vector<double> bounds;  // histograms only
  SeriesBudget* budget = nullptr;
  std::atomic<Node*> first{nullptr};
  Mutex mu;
  std::vector<std::unique_ptr<Node>> nodes ABSL_GUARDED_BY(mu);
  std::unordered_map<std::string, M*> by_key ABSL_GUARDED_BY(mu);
};

}  // namespace sluice

#endif  // BASE_METRIC_STATE_H_
