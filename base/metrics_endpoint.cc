#include "base/metrics_endpoint.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clock.h"

namespace sluice {
namespace {

constexpr char kTextType[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr char kOpenMetricsType[] =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

// Whether OpenMetrics has the highest weight of what is asked for.
bool PrefersOpenMetrics(absl::string_view accept) {
  double open_metrics = 0, text = 0;
  for (absl::string_view part : absl::StrSplit(accept, ',')) {
    double weight = 1;
    bool version_known = true;
    const std::vector<absl::string_view> pieces = absl::StrSplit(part, ';');
    for (absl::string_view piece : pieces) {
      piece = absl::StripAsciiWhitespace(piece);
      if (absl::ConsumePrefix(&piece, "q=") &&
          !absl::SimpleAtod(piece, &weight)) {
        weight = 0;
      }
      if (absl::ConsumePrefix(&piece, "version=")) {
        version_known = piece == "1.0.0" || piece == "0.0.1";
      }
    }
    const absl::string_view type = absl::StripAsciiWhitespace(pieces[0]);
    if (absl::EqualsIgnoreCase(type, "application/openmetrics-text")) {
      if (version_known) open_metrics = std::max(open_metrics, weight);
    } else if (absl::EqualsIgnoreCase(type, "text/plain")) {
      text = std::max(text, weight);
    }
  }
  return open_metrics > 0 && open_metrics >= text;
}

}  // namespace

AdminHandler MetricsHandler(MetricRegistry& registry) {
  Histogram& seconds = registry.AddHistogram(
      "sluice_scrape_seconds", "Time to answer a scrape.", kFastBuckets);
  return [&registry, &seconds](const AdminRequest& request) {
    const int64_t start_us = SystemClock::Get().NowMicros();
    AdminReply reply;
    if (PrefersOpenMetrics(request.accept)) {
      reply.content_type = kOpenMetricsType;
      reply.body = registry.OpenMetricsExposition();
    } else {
      reply.content_type = kTextType;
      reply.body = registry.TextExposition();
    }
    seconds.Observe(
        static_cast<double>(SystemClock::Get().NowMicros() - start_us) * 1e-6);
    return reply;
  };
}

}  // namespace sluice
