#ifndef BASE_METRICS_ENDPOINT_H_
#define BASE_METRICS_ENDPOINT_H_

#include "base/admin_http.h"
#include "base/metrics.h"

namespace sluice {

// The handler of `GET /metrics` over `registry`: text 0.0.4, or OpenMetrics
// 1.0 when the Accept header prefers it. Observes sluice_scrape_seconds, which
// it adds to the registry. Borrows the registry until the server has stopped.
AdminHandler MetricsHandler(MetricRegistry& registry);

}  // namespace sluice

#endif  // BASE_METRICS_ENDPOINT_H_
