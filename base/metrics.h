#ifndef BASE_METRICS_H_
#define BASE_METRICS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/metric_cells.h"
#include "base/mutex.h"

namespace prometheus {
struct MetricFamily;
}

namespace sluice {

// Ordered (name, value) pairs of one series.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

enum class MetricKind { kCounter, kGauge, kHistogram };

class MetricRegistry;

// One metric name with its label names; the series are found or made by label
// values. Thread-safe: With() takes the family's lock and hashes, so hot loops
// keep the reference; scrapes take no lock that With() or a cell needs.
// M is Counter, Gauge or Histogram.
template <typename M>
class MetricFamily {
 public:
  // The series with these values, one per label name, in order; made at 0 when
  // new. Lives as long as the registry. When the registry is full the values
  // fold into "other" (see MetricRegistry).
  M& With(absl::Span<const absl::string_view> values);

  // Makes every combination of the given values of each label, at 0: for
  // closed label sets, so that rate() and absent() work from the first scrape.
  void CreateAll(const std::vector<std::vector<absl::string_view>>& values);

  ~MetricFamily();
  MetricFamily(const MetricFamily&) = delete;
  MetricFamily& operator=(const MetricFamily&) = delete;

 private:
  friend class MetricRegistry;
  struct State;
  explicit MetricFamily(std::unique_ptr<State> state);

  const std::unique_ptr<State> state_;
};

using CounterFamily = MetricFamily<Counter>;
using GaugeFamily = MetricFamily<Gauge>;
using HistogramFamily = MetricFamily<Histogram>;

// All metrics of a process. Add*() is for start-up but safe from any thread;
// adding a name again with the same kind and label names returns the same
// family or series, with others it is a bug (CHECK). Counter names end in
// `_total`; names may hold a colon. Series beyond 5 000 (a histogram counts its
// buckets, sum and count) fold all their label values into "other", and
// sluice_metrics_dropped_series_total counts each such look-up.
class MetricRegistry {
 public:
  explicit MetricRegistry(int64_t max_series = 5000);
  ~MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  // One series each. References live as long as the registry.
  Counter& AddCounter(absl::string_view name, absl::string_view help,
                      const MetricLabels& labels = {});
  Gauge& AddGauge(absl::string_view name, absl::string_view help,
                  const MetricLabels& labels = {});
  // `bounds`: ascending upper bounds without +Inf, see metric_cells.h.
  Histogram& AddHistogram(absl::string_view name, absl::string_view help,
                          absl::Span<const double> bounds,
                          const MetricLabels& labels = {});

  CounterFamily& AddCounterFamily(absl::string_view name,
                                  absl::string_view help,
                                  std::vector<std::string> label_names);
  GaugeFamily& AddGaugeFamily(absl::string_view name, absl::string_view help,
                              std::vector<std::string> label_names);
  HistogramFamily& AddHistogramFamily(absl::string_view name,
                                      absl::string_view help,
                                      absl::Span<const double> bounds,
                                      std::vector<std::string> label_names);

  // Series whose value is `read()` at each scrape, on the scraping thread. It
  // must not block and must stay callable until the registry is gone; a
  // counter's must never go back.
  void AddCallbackCounter(absl::string_view name, absl::string_view help,
                          const MetricLabels& labels,
                          std::function<double()> read);
  void AddCallbackGauge(absl::string_view name, absl::string_view help,
                        const MetricLabels& labels,
                        std::function<double()> read);

  // Runs first in each scrape: to set several gauges from one snapshot, so
  // that they agree with each other. Same duties as a callback.
  void BeforeScrape(std::function<void()> update);

  // At most `max_values` different values of the label `label_name` in all
  // families together; later ones become "other". Call before any use of it.
  void BoundLabel(absl::string_view label_name, size_t max_values);

  // Everything now, sorted by name. Thread-safe.
  std::vector<prometheus::MetricFamily> Collect();
  // Text format 0.0.4 and OpenMetrics 1.0.
  std::string TextExposition();
  std::string OpenMetricsExposition();

 private:
  template <typename M>
  friend class MetricFamily;
  struct State;

  const std::unique_ptr<State> state_;
};

}  // namespace sluice

#endif  // BASE_METRICS_H_
