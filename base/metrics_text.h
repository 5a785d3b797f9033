#ifndef BASE_METRICS_TEXT_H_
#define BASE_METRICS_TEXT_H_

#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace sluice {

// Text format 0.0.4.
std::string SerializeText(const std::vector<prometheus::MetricFamily>& metrics);

// OpenMetrics 1.0, ending in "# EOF". A counter's family loses its `_total`.
// `created_seconds`: Unix time of the first sample, written as `_created` of
// each counter and histogram series.
std::string SerializeOpenMetrics(
    const std::vector<prometheus::MetricFamily>& metrics,
    double created_seconds);

}  // namespace sluice

#endif  // BASE_METRICS_TEXT_H_
