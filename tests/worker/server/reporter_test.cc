#include "worker/server/reporter.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice::worker {
namespace {

using testing::UnorderedElementsAre;

class CollectingReader final : public ReportReader {
 public:
  void OnReport(v1::WorkerReport report) override {
    const std::lock_guard<std::mutex> lock(mu_);
    reports_.push_back(std::move(report));
    arrived_.notify_all();
  }
  // The report with that sequence number.
  v1::WorkerReport Await(uint64_t sequence) {
    std::unique_lock<std::mutex> lock(mu_);
    arrived_.wait(lock, [&] { return reports_.size() >= sequence; });
    return reports_[sequence - 1];
  }

 private:
  std::mutex mu_;
  std::condition_variable arrived_;
  std::vector<v1::WorkerReport> reports_;
};

TEST(ReporterTest, FirstReportIsASnapshotLaterOnesAreChanges) {
  Reporter reporter(3600'000, [] {
    v1::WorkerReport report;
    report.set_state(v1::SERVING);
    return report;
  });
  reporter.OnCacheEvents({.stored = {1, 2, 3}});
  reporter.OnCacheEvents({.removed = {2}});
  auto reader = std::make_shared<CollectingReader>();
  reporter.Add(reader);
  const v1::WorkerReport first = reader->Await(1);
  EXPECT_EQ(first.sequence(), 1u);
  EXPECT_EQ(first.state(), v1::SERVING);
  EXPECT_TRUE(first.events().cleared());
  EXPECT_THAT(first.events().stored(), UnorderedElementsAre(1, 3));

  // A hash that left and came back between two reports is there.
  reporter.OnCacheEvents({.stored = {4}, .removed = {1}});
  reporter.OnCacheEvents({.stored = {1}, .removed = {4}});
  reporter.Nudge();
  const v1::WorkerReport second = reader->Await(2);
  EXPECT_FALSE(second.events().cleared());
  EXPECT_THAT(second.events().stored(), UnorderedElementsAre(1));
  EXPECT_THAT(second.events().removed(), UnorderedElementsAre(4));

  reporter.OnCacheEvents({.cleared = true, .stored = {9}});
  reporter.Nudge();
  const v1::WorkerReport third = reader->Await(3);
  EXPECT_TRUE(third.events().cleared());
  EXPECT_THAT(third.events().stored(), UnorderedElementsAre(9));
  reporter.Remove(reader.get());
}

TEST(ReporterTest, BeatsWithoutNews) {
  Reporter reporter(10, [] { return v1::WorkerReport(); });
  auto reader = std::make_shared<CollectingReader>();
  reporter.Add(reader);
  EXPECT_EQ(reader->Await(3).sequence(), 3u);
  EXPECT_FALSE(reader->Await(3).has_events());
  reporter.Remove(reader.get());
}

}  // namespace
}  // namespace sluice::worker
