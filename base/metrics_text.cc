#include "base/metrics_text.h"

#include <charconv>
#include <cmath>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "prometheus/text_serializer.h"

namespace sluice {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricType;

std::string Escape(absl::string_view text) {
  return absl::StrReplaceAll(text,
                             {{"\\", "\\\\"}, {"\n", "\\n"}, {"\"", "\\\""}});
}

// The shortest text that reads back as the same number.
std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return std::string(text, end);
}

// A bucket bound is a float: it has a point or an exponent.
std::string Bound(double value) {
  std::string text = Number(value);
  if (text.find_first_of(".eI") == std::string::npos) text += ".0";
  return text;
}

// `{a="x",le="0.1"}`, or nothing.
std::string LabelText(const ClientMetric& metric,
                      const std::string& bound = "") {
  std::string text;
  for (const ClientMetric::Label& label : metric.label) {
    absl::StrAppend(&text, text.empty() ? "" : ",", label.name, "=\"",
                    Escape(label.value), "\"");
  }
  if (!bound.empty()) {
    absl::StrAppend(&text, text.empty() ? "" : ",", "le=\"", bound, "\"");
  }
  return text.empty() ? "" : absl::StrCat("{", text, "}");
}

void AppendHistogram(const std::string& name, const ClientMetric& metric,
                     const std::string& created, std::string& out) {
  for (const ClientMetric::Bucket& bucket : metric.histogram.bucket) {
    absl::StrAppend(&out, name, "_bucket",
                    LabelText(metric, Bound(bucket.upper_bound)), " ",
                    bucket.cumulative_count, "\n");
  }
  const std::string labels = LabelText(metric);
  absl::StrAppend(&out, name, "_count", labels, " ",
                  metric.histogram.sample_count, "\n");
  absl::StrAppend(&out, name, "_sum", labels, " ",
                  Number(metric.histogram.sample_sum), "\n");
  absl::StrAppend(&out, name, "_created", labels, " ", created, "\n");
}

absl::string_view TypeName(MetricType type) {
  switch (type) {
    case MetricType::Counter:
      return "counter";
    case MetricType::Histogram:
      return "histogram";
    default:
      return "gauge";
  }
}

void AppendFamily(const prometheus::MetricFamily& family,
                  const std::string& created, std::string& out) {
  std::string name = family.name;
  constexpr absl::string_view kTotal = "_total";
  if (family.type == MetricType::Counter && absl::EndsWith(name, kTotal)) {
    name.resize(name.size() - kTotal.size());
  }
  absl::StrAppend(&out, "# TYPE ", name, " ", TypeName(family.type), "\n");
  absl::StrAppend(&out, "# HELP ", name, " ", Escape(family.help), "\n");
  for (const ClientMetric& metric : family.metric) {
    switch (family.type) {
      case MetricType::Counter: {
        const std::string labels = LabelText(metric);
        absl::StrAppend(&out, name, "_total", labels, " ",
                        Number(metric.counter.value), "\n");
        absl::StrAppend(&out, name, "_created", labels, " ", created, "\n");
        break;
      }
      case MetricType::Histogram:
        AppendHistogram(name, metric, created, out);
        break;
      default:
        absl::StrAppend(&out, name, LabelText(metric), " ",
                        Number(metric.gauge.value), "\n");
    }
  }
}

}  // namespace

std::string SerializeText(
    const std::vector<prometheus::MetricFamily>& metrics) {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, metrics);
  return std::move(out).str();
}

std::string SerializeOpenMetrics(
    const std::vector<prometheus::MetricFamily>& metrics,
    double created_seconds) {
  std::string out;
  // To the millisecond, which a shortest double need not show.
  const std::string created = absl::StrCat(
      static_cast<int64_t>(created_seconds), ".",
      absl::Dec(static_cast<int64_t>(std::fmod(created_seconds, 1) * 1000),
                absl::kZeroPad3));
  for (const auto& family : metrics) AppendFamily(family, created, out);
  out += "# EOF\n";
  return out;
}

}  // namespace sluice
