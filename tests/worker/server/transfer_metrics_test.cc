#include "worker/server/transfer_metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice::worker {
namespace {

using kvtransfer::TransferDirection;
using kvtransfer::TransferResult;
using kvtransfer::TransferState;
using kvtransfer::TransferStats;
using ::testing::HasSubstr;

TEST(TransferMetricsTest, AllSeriesOfClosedSetsExistFromTheStart) {
  MetricRegistry registry;
  TransferMetrics metrics(registry, {"shm", "ucx"});
  const std::string text = registry.TextExposition();
  for (const char* line :
       {"sluice_kv_transfer_seconds_count{transport=\"ucx\",stage=\"copy\"} 0",
        "sluice_kv_transfer_bytes_total{direction=\"receive\",transport="
        "\"shm\"} 0",
        "sluice_kv_pair_refusals_total{reason=\"numerics\"} 0",
        "sluice_kv_plan_seconds_count{kind=\"convert\"} 0",
        "sluice_kv_inflight_bytes{direction=\"send\"} 0",
        "sluice_kv_transfer_exposed_seconds_count 0"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(TransferMetricsTest, CompletedTransfersAreObservedOnce) {
  MetricRegistry registry;
  TransferMetrics metrics(registry, {"shm"});
  TransferResult result{.state = TransferState::kCompleted,
                        .bytes = 4'000'000,
                        .copies = 12,
                        .elapsed_us = 6'000,
                        .claim_us = 2'000,
                        .transport = "shm"};
  metrics.OnTransferEnded(TransferDirection::kReceive, result);
  result.exposed_us = 500;
  metrics.OnTransferEnded(TransferDirection::kSend, result);
  result.state = TransferState::kCancelled;
  metrics.OnTransferEnded(TransferDirection::kReceive, result);
  metrics.OnPaired(30'000);
  metrics.OnReleased(kvtransfer::Fence::kClose, 40'000);
  const std::string text = registry.TextExposition();
  for (const char* line :
       {"sluice_kv_transfer_seconds_sum{transport=\"shm\",stage=\"claim\"} "
        "0.002",
        "sluice_kv_transfer_seconds_sum{transport=\"shm\",stage=\"copy\"} "
        "0.004",
        "sluice_kv_transfer_seconds_sum{transport=\"shm\",stage=\"total\"} "
        "0.006",
        "sluice_kv_transfer_exposed_seconds_sum 0.0005",
        "sluice_kv_quarantine_seconds_sum{fence=\"close\"} 0.04",
        "sluice_kv_quarantine_seconds_count{fence=\"death\"} 0",
        "sluice_kv_transfer_size_bytes_sum{direction=\"send\",transport="
        "\"shm\"} 4000000",
        "sluice_kv_copies_per_transfer_sum{transport=\"shm\"} 12",
        "sluice_kv_transfer_bytes_per_second_sum{transport=\"shm\"} 1000000000",
        "sluice_kv_pair_seconds_sum 0.03"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(TransferMetricsTest, TotalsFollowTheStatsAndNeverGoBack) {
  MetricRegistry registry;
  TransferMetrics metrics(registry, {"shm"});
  TransferStats stats;
  stats.CountEnd(
      TransferDirection::kSend,
      {.state = TransferState::kCompleted, .bytes = 64, .transport = "shm"});
  stats.pair_refusals["layout"] = 2;
  stats.inflight_bytes = {100, 7};
  metrics.Update(stats, {});
  metrics.Update(stats, {});
  const std::string text = registry.TextExposition();
  for (const char* line :
       {"sluice_kv_transfers_total{direction=\"send\",transport=\"shm\","
        "state=\"completed\",code=\"ok\"} 1",
        "sluice_kv_transfer_bytes_total{direction=\"send\",transport=\"shm\"} "
        "64",
        "sluice_kv_pair_refusals_total{reason=\"layout\"} 2",
        "sluice_kv_inflight_bytes{direction=\"receive\"} 7"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace sluice::worker
