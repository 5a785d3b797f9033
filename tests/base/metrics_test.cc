#include "base/metrics.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/metric_family.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// The lines of `text` that start with `prefix`.
std::vector<std::string> Lines(const std::string& text,
                               const std::string& prefix) {
  std::vector<std::string> lines;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StartsWith(line, prefix)) lines.emplace_back(line);
  }
  return lines;
}

TEST(MetricsTest, TextExposition) {
  MetricRegistry registry;
  registry.AddCounter("a_total", "Counts a.").Add(3);
  registry.AddGauge("vllm:running", "Runs.", {{"engine", "0"}}).Set(2.5);
  Histogram& h = registry.AddHistogram("h_seconds", "H.", {.1, 1});
  for (double v : {.05, .1, .5, 7.}) h.Observe(v);
  registry.AddCallbackGauge("b", "B.", {{"k", "q\"\\\n"}}, [] { return 9.; });
  const std::string text = registry.TextExposition();
  EXPECT_THAT(Lines(text, "a_total"), ElementsAre("a_total 3"));
  EXPECT_THAT(Lines(text, "# TYPE a_total"),
              ElementsAre("# TYPE a_total counter"));
  EXPECT_THAT(Lines(text, "# HELP a_total"),
              ElementsAre("# HELP a_total Counts a."));
  EXPECT_THAT(Lines(text, "vllm:running"),
              ElementsAre("vllm:running{engine=\"0\"} 2.5"));
  EXPECT_THAT(Lines(text, "h_seconds"),
              ElementsAre("h_seconds_count 4", "h_seconds_sum 7.65",
                          "h_seconds_bucket{le=\"0.1\"} 2",
                          "h_seconds_bucket{le=\"1\"} 3",
                          "h_seconds_bucket{le=\"+Inf\"} 4"));
  EXPECT_THAT(Lines(text, "b{"), ElementsAre("b{k=\"q\\\"\\\\\\n\"} 9"));
}

TEST(MetricsTest, OpenMetricsExposition) {
  MetricRegistry registry;
  registry.AddCounter("a_total", "Counts a.", {{"x", "1"}}).Add(3);
  registry.AddHistogram("vllm:t_total", "H.", {1, 2.5}).Observe(2);
  const std::string text = registry.OpenMetricsExposition();
  EXPECT_THAT(Lines(text, "# TYPE a "), ElementsAre("# TYPE a counter"));
  EXPECT_THAT(Lines(text, "a_total"), ElementsAre("a_total{x=\"1\"} 3"));
  EXPECT_EQ(Lines(text, "a_created{x=\"1\"} 1").size(), 1u);
  EXPECT_THAT(Lines(text, "vllm:t_total_bucket"),
              ElementsAre("vllm:t_total_bucket{le=\"1.0\"} 0",
                          "vllm:t_total_bucket{le=\"2.5\"} 1",
                          "vllm:t_total_bucket{le=\"+Inf\"} 1"));
  EXPECT_TRUE(absl::EndsWith(text, "\n# EOF\n"));
}

TEST(MetricsTest, SameNameSameSeries) {
  MetricRegistry registry;
  Counter& a = registry.AddCounter("a_total", "A.", {{"x", "1"}});
  EXPECT_EQ(&a, &registry.AddCounter("a_total", "A.", {{"x", "1"}}));
  Counter& b = registry.AddCounter("a_total", "A.", {{"x", "2"}});
  EXPECT_NE(&a, &b);
  EXPECT_EQ(&b, &registry.AddCounterFamily("a_total", "A.", {"x"}).With({"2"}));
}

TEST(MetricsTest, ClosedSetsExistAtZero) {
  MetricRegistry registry;
  registry.AddCounterFamily("t_total", "T.", {"way", "state"})
      .CreateAll({{"in", "out"}, {"ok", "bad"}});
  registry.AddCounterFamily("none_total", "N.", {"peer"});
  const std::string text = registry.TextExposition();
  EXPECT_EQ(Lines(text, "t_total{").size(), 4u);
  EXPECT_THAT(Lines(text, "t_total{way=\"out\",state=\"bad\"}"),
              ElementsAre("t_total{way=\"out\",state=\"bad\"} 0"));
  EXPECT_THAT(text, Not(HasSubstr("none_total")));
}

TEST(MetricsTest, FoldsIntoOtherWhenFull) {
  MetricRegistry registry(/*max_series=*/10);
  CounterFamily& family = registry.AddCounterFamily("c_total", "C.", {"p"});
  for (int i = 0; i < 100; ++i) family.With({absl::StrCat(i)}).Add();
  HistogramFamily& h =
      registry.AddHistogramFamily("h", "H.", {1, 2}, {"p", "q"});
  h.With({"a", "b"}).Observe(1);
  h.With({"c", "d"}).Observe(1);
  const std::string text = registry.TextExposition();
  // 9 of their own, since the registry's own counter is one, and the fold.
  EXPECT_EQ(Lines(text, "c_total{").size(), 10u);
  EXPECT_THAT(Lines(text, "c_total{p=\"other\""),
              ElementsAre("c_total{p=\"other\"} 91"));
  EXPECT_THAT(Lines(text, "h_count"),
              ElementsAre("h_count{p=\"other\",q=\"other\"} 2"));
  EXPECT_THAT(Lines(text, "sluice_metrics_dropped_series_total"),
              ElementsAre("sluice_metrics_dropped_series_total 93"));
  // Series that were there before stay themselves.
  EXPECT_EQ(family.With({"3"}).value(), 1u);
}

TEST(MetricsTest, BoundsOneLabelOverAllFamilies) {
  MetricRegistry registry;
  registry.BoundLabel("model", 2);
  CounterFamily& a = registry.AddCounterFamily("a_total", "A.", {"model", "s"});
  GaugeFamily& b = registry.AddGaugeFamily("b", "B.", {"model"});
  a.With({"m1", "x"}).Add();
  b.With({"m2"}).Set(1);
  a.With({"m3", "x"}).Add(2);
  a.With({"m3", "x"}).Add(2);
  b.With({"m1"}).Set(5);
  const std::string text = registry.TextExposition();
  EXPECT_THAT(Lines(text, "a_total{"),
              ElementsAre("a_total{model=\"m1\",s=\"x\"} 1",
                          "a_total{model=\"other\",s=\"x\"} 4"));
  EXPECT_EQ(Lines(text, "b{").size(), 2u);
}

TEST(MetricsTest, BeforeScrapeRunsFirst) {
  MetricRegistry registry;
  Gauge& free = registry.AddGauge("free", "F.");
  int64_t scrapes = 0;
  registry.BeforeScrape([&] { free.Set(static_cast<double>(++scrapes)); });
  EXPECT_THAT(registry.TextExposition(), HasSubstr("\nfree 1\n"));
  EXPECT_THAT(registry.TextExposition(), HasSubstr("\nfree 2\n"));
}

TEST(MetricsTest, ScrapeWhileWritten) {
  MetricRegistry registry;
  CounterFamily& family = registry.AddCounterFamily("c_total", "C.", {"p"});
  constexpr int kThreads = 3, kAdds = 2000;
  std::atomic<int> running{kThreads};
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kAdds; ++i) {
        family.With({absl::StrCat(i % 50)}).Add();
      }
      --running;
    });
  }
  double last = 0;
  const auto total = [&] {
    double sum = 0;
    for (const auto& metric_family : registry.Collect()) {
      if (metric_family.name != "c_total") continue;
      for (const auto& m : metric_family.metric) sum += m.counter.value;
    }
    return sum;
  };
  while (running > 0) {
    const double now = total();
    EXPECT_GE(now, last);  // counters never go back
    last = now;
  }
  threads.clear();
  EXPECT_EQ(total(), kThreads * kAdds);
}

TEST(MetricsDeathTest, BugsAreCaught) {
  MetricRegistry registry;
  EXPECT_DEATH(registry.AddCounter("no_suffix", ""), "CHECK");
  EXPECT_DEATH(registry.AddGauge("bad name", ""), "CHECK");
  registry.AddGauge("g", "");
  EXPECT_DEATH(registry.AddGauge("g", "", {{"x", "1"}}), "CHECK");
  EXPECT_DEATH(registry.AddHistogram("g", "", {1}), "CHECK");
  EXPECT_DEATH(registry.AddGaugeFamily("f", "", {"a", "b"}).With({"1"}),
               "CHECK");
}

}  // namespace
}  // namespace sluice
