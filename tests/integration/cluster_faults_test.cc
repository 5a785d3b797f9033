// Workers of a split cluster die, stand still and are cancelled under load, as
// real processes: every call ends in a definite way, tokens are those of a run
// without faults, and the survivors hold nothing when it is over.
//
// $SLUICE_FAULT_CYCLES: kills per test (default 10), $SLUICE_CHURN_SECONDS: how
// long ClusterChurn goes on (default 15), for longer runs by hand.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/fault_load.h"
#include "tests/integration/local_cluster.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;

constexpr int kRequests = 24;
// After the last stream; the bound of the specification.
constexpr int64_t kQuietMs = 2000;
constexpr int64_t kPairMs = 5000;
// The time in which a survivor sees a peer that stands still.
constexpr int64_t kPeerLostMs = 3000;

// No call takes longer: a connection that breaks is seen at once; one that is
// silent, when the router gives the worker up (5 s).
constexpr int64_t kKillBoundMs = 5000;
constexpr int64_t kStopBoundMs = 8000;
// Start of the process, pairing (1 s), and the router's word of it (2 s).
constexpr int64_t kRestartBoundMs = 3000;

int Cycles(int by_default) {
  return FromEnvironment("SLUICE_FAULT_CYCLES", by_default);
}

struct Victim {
  std::string transport;
  std::string instance;
};

const Victim kVictims[] = {
    {"shm", "p0"}, {"shm", "d0"}, {"ucx", "p0"}, {"ucx", "d0"}};

std::string NameOf(const testing::TestParamInfo<Victim>& info) {
  return absl::StrCat(info.param.transport, "_", info.param.instance);
}

class ClusterFaults : public testing::TestWithParam<Victim> {
 protected:
  void Start(int prefill, int decode,
             const std::vector<std::string>& flags = {}) {
    auto cluster = StartFaultCluster({.transport = GetParam().transport,
                                      .prefill = prefill,
                                      .decode = decode,
                                      .flags = flags});
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
    auto known = LearnRequests(*cluster_, kRequests, /*seed=*/20250);
    ASSERT_TRUE(known.ok()) << known.status();
    known_ = *std::move(known);
  }

  LoadOptions Streams(uint32_t seed, double cancel_share = 0, int streams = 8) {
    return {.streams = streams, .seed = seed, .cancel_share = cancel_share};
  }

  void Add(const LoadReport& report) {
    EXPECT_TRUE(report.complaints.empty()) << report.Text();
    total_.Add(report);
  }

  const std::string& victim() const { return GetParam().instance; }

  void ExpectQuiet(const std::string& name, int64_t bound_ms = kQuietMs) {
    const absl::Status quiet = AwaitQuiet(*cluster_, name, bound_ms);
    EXPECT_TRUE(quiet.ok()) << quiet << "\n" << cluster_->EndOfLog(name);
  }

  // Some known requests, with nothing cached, one after the other.
  void ExpectServes(int first, int count) {
    for (int i = 0; i < count; ++i) {
      const absl::Status status =
          CallKnown(*cluster_, known_[(first + i) % known_.size()]);
      EXPECT_TRUE(status.ok()) << status;
    }
  }

  std::unique_ptr<LocalCluster> cluster_;
  std::vector<KnownRequest> known_;
  LoadReport total_;
};

void Pause(std::mt19937& random, int min_ms, int max_ms) {
  std::this_thread::sleep_for(
      milliseconds(min_ms + random() % (max_ms - min_ms + 1)));
}

class ClusterKills : public ClusterFaults {
 protected:
  // The victim is back, paired, and the router uses it.
  void Restart() {
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(cluster_->Restart(victim()).ok());
    const absl::Status ready = cluster_->WaitReady();
    ASSERT_TRUE(ready.ok()) << ready;
    const int64_t took_ms = std::chrono::duration_cast<milliseconds>(
                                std::chrono::steady_clock::now() - begin)
                                .count();
    slowest_restart_ms_ = std::max(slowest_restart_ms_, took_ms);
  }

  int64_t slowest_restart_ms_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Of, ClusterKills, testing::ValuesIn(kVictims), NameOf);

TEST_P(ClusterKills, SurvivorsAreWhole) {
  ASSERT_NO_FATAL_FAILURE(Start(1, 1));
  const std::string survivor = victim() == "p0" ? "d0" : "p0";
  const int cycles = Cycles(10);
  constexpr int kWarm = 3;  // cycles until buffers have their size
  std::mt19937 random(7);
  Footprint before;
  double open_at_kill = 0;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    SCOPED_TRACE(absl::StrCat("cycle ", cycle));
    const bool under_load = cycle % 2 == 0;  // comes back under load
    {
      FaultLoad load(*cluster_, known_, Streams(cycle));
      Pause(random, 30, 300);
      const absl::Status killed = cluster_->Kill(victim());
      ASSERT_TRUE(killed.ok()) << killed;
      open_at_kill +=
          MetricOf(cluster_->Metrics(survivor), "sluice_kv_inflight_transfers");
      Pause(random, 0, 200);
      if (under_load) {
        ASSERT_NO_FATAL_FAILURE(Restart());
        Pause(random, 0, 100);
      }
      Add(load.Stop());
    }
    ExpectQuiet(survivor);
    if (!under_load) {
      ASSERT_NO_FATAL_FAILURE(Restart());
    }
    ExpectQuiet(victim());
    ExpectServes(2 * cycle, 2);
    if (cycle + 1 == kWarm) before = FootprintOf(*cluster_, survivor);
    if (HasFailure()) break;
  }
  ExpectQuiet(survivor);
  const Footprint after = FootprintOf(*cluster_, survivor);
  std::cout << cycles << " kills of " << victim() << " over "
            << GetParam().transport << ": " << total_.Text()
            << ", slowest restart " << slowest_restart_ms_ << " ms"
            << "; survivor: " << open_at_kill
            << " transfers open just after the kills, "
            << after.descriptors - before.descriptors << " descriptors, "
            << after.mappings - before.mappings << " mappings, "
            << after.resident_mib - before.resident_mib << " MiB, "
            << after.threads - before.threads << " threads more\n";
  EXPECT_GT(total_.count(absl::StatusCode::kOk), 0);
  EXPECT_LE(total_.longest_ms, kKillBoundMs);
  EXPECT_LE(slowest_restart_ms_, kRestartBoundMs);
  if (cycles <= kWarm || HasFailure()) return;
  EXPECT_LE(after.descriptors, before.descriptors + 8);
  EXPECT_LE(after.mappings, before.mappings + 64);
  EXPECT_LE(after.resident_mib, before.resident_mib + 32);
  EXPECT_TRUE(cluster_->Stop().ok());
}

class ClusterStops : public ClusterFaults {
 protected:
  std::vector<std::string> Others() const {
    std::vector<std::string> others;
    for (const char* name : {"p0", "p1", "d0", "d1"}) {
      if (name != victim()) others.push_back(name);
    }
    return others;
  }
  double Late(const std::string& family) {
    double sum = 0;
    for (const std::string& name : Others()) {
      sum += std::max(0.0, MetricOf(cluster_->Metrics(name), family));
    }
    return sum;
  }
};

INSTANTIATE_TEST_SUITE_P(Of, ClusterStops, testing::ValuesIn(kVictims), NameOf);

// Shorter than any silence counts: nothing fails.
TEST_P(ClusterStops, ShortOnesCauseNothing) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 2));
  std::mt19937 random(11);
  FaultLoad load(*cluster_, known_, Streams(1));
  for (int i = 0; i < 5; ++i) {
    Pause(random, 50, 200);
    cluster_->Signal(victim(), SIGSTOP);
    std::this_thread::sleep_for(milliseconds(300));
    cluster_->Signal(victim(), SIGCONT);
  }
  Add(load.Stop());
  EXPECT_EQ(total_.count(absl::StatusCode::kUnavailable), 0) << total_.Text();
  for (const std::string& name : Others()) ExpectQuiet(name);
  ExpectQuiet(victim());
  EXPECT_TRUE(cluster_->Stop().ok());
}

// Transfers expire on the side that runs, whose blocks go to others; the one
// that wakes comes too late with what it still sends, reads or answers. No
// peer is lost, and the decode worker computes what did not arrive.
TEST_P(ClusterStops, PastTheDeadlineOfTransfers) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 2, {"--kv.deadline_ms=500"}));
  std::mt19937 random(17);
  for (int cycle = 0; cycle < Cycles(3); ++cycle) {
    SCOPED_TRACE(absl::StrCat("cycle ", cycle));
    FaultLoad load(*cluster_, known_, Streams(cycle, /*cancel_share=*/0, 16));
    Pause(random, 50, 300);
    cluster_->Signal(victim(), SIGSTOP);
    std::this_thread::sleep_for(milliseconds(1500));
    cluster_->Signal(victim(), SIGCONT);
    Pause(random, 200, 400);
    Add(load.Stop());
    for (const std::string& name : Others()) ExpectQuiet(name);
    ExpectQuiet(victim());
    ExpectServes(4 * cycle, 4);
    if (HasFailure()) break;
  }
  double expired = 0;
  for (const char* name : {"p0", "p1", "d0", "d1"}) {
    expired += std::max(
        0.0, MetricOf(cluster_->Metrics(name), "sluice_kv_transfers_total",
                      "state=\"expired\""));
  }
  std::cout << "stops of " << victim() << " past the deadline over "
            << GetParam().transport << ": " << total_.Text() << "; " << expired
            << " transfers expired, " << Late("sluice_kv_late_messages_total")
            << " late messages\n";
  EXPECT_GT(expired, 0);
  EXPECT_EQ(total_.count(absl::StatusCode::kUnavailable), 0) << total_.Text();
  EXPECT_TRUE(cluster_->Stop().ok());
}

// It is given up, its blocks serve others, and it wakes among them.
TEST_P(ClusterStops, LongOnesAreFenced) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 2));
  std::mt19937 random(13);
  double open_at_stop = 0;
  for (int cycle = 0; cycle < Cycles(3); ++cycle) {
    SCOPED_TRACE(absl::StrCat("cycle ", cycle));
    FaultLoad before(*cluster_, known_, Streams(cycle));
    Pause(random, 50, 300);
    cluster_->Signal(victim(), SIGSTOP);
    // Time for the survivors to say what stays open.
    std::this_thread::sleep_for(milliseconds(800));
    for (const std::string& name : Others()) {
      const std::string metrics = cluster_->Metrics(name);
      open_at_stop += MetricOf(metrics, "sluice_kv_inflight_transfers");
    }
    Add(before.Stop());
    // What the survivors had open with it ends when its silence is too long.
    for (const std::string& name : Others()) {
      ExpectQuiet(name, kPeerLostMs + kQuietMs);
    }
    // The blocks it may still want to read or write are others' now.
    FaultLoad after(*cluster_, known_, Streams(100 + cycle));
    Pause(random, 200, 400);
    cluster_->Signal(victim(), SIGCONT);
    Pause(random, 200, 400);
    Add(after.Stop());
    for (const std::string& name : Others()) ExpectQuiet(name);
    ExpectQuiet(victim(), kPeerLostMs + kQuietMs);
    const absl::Status peers = AwaitPeers(*cluster_, victim(), 2, kPairMs);
    EXPECT_TRUE(peers.ok()) << peers << cluster_->EndOfLog(victim());
    ExpectServes(4 * cycle, 4);
    if (HasFailure()) break;
  }
  std::cout << "stops of " << victim() << " over " << GetParam().transport
            << ": " << total_.Text() << "; " << open_at_stop
            << " transfers open at the stops, "
            << Late("sluice_kv_stale_messages_total") << " stale and "
            << Late("sluice_kv_late_messages_total") << " late messages\n";
  EXPECT_LE(total_.longest_ms, kStopBoundMs);
  EXPECT_TRUE(cluster_->Stop().ok());
}

class ClusterChurn : public ClusterFaults {};

INSTANTIATE_TEST_SUITE_P(Of, ClusterChurn,
                         testing::Values(Victim{"shm", ""}, Victim{"ucx", ""}),
                         [](const auto& info) { return info.param.transport; });

// A worker of either kind dies every 5 s and comes back at once, while the load
// goes on without a break.
TEST_P(ClusterChurn, GoesOnWithoutABreak) {
  constexpr auto kBetweenKills = std::chrono::seconds(5);
  ASSERT_NO_FATAL_FAILURE(Start(2, 2));
  const std::string names[] = {"p0", "p1", "d0", "d1"};
  const int kills = FromEnvironment("SLUICE_CHURN_SECONDS", 15) / 5;
  std::mt19937 random(23);
  const auto begin = std::chrono::steady_clock::now();
  double most_quarantined = 0;
  FaultLoad load(*cluster_, known_, Streams(1, /*cancel_share=*/0.1));
  std::unique_ptr<Footprint> router_before;
  for (int i = 1; i <= kills && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("kill ", i));
    const std::string& name = names[random() % 4];
    const absl::Status killed = cluster_->Kill(name);
    ASSERT_TRUE(killed.ok()) << killed;
    ASSERT_TRUE(cluster_->Restart(name).ok());
    const absl::Status ready = cluster_->WaitReady();
    ASSERT_TRUE(ready.ok()) << ready;
    std::this_thread::sleep_until(begin + i * kBetweenKills);
    for (const std::string& other : names) {
      const std::string metrics = cluster_->Metrics(other);
      most_quarantined = std::max(
          most_quarantined,
          MetricOf(metrics, "sluice_kv_blocks", "state=\"quarantined\""));
      EXPECT_EQ(MetricOf(metrics, "sluice_ledger_violations_total"), 0);
    }
    if (i == (kills + 1) / 2) {
      router_before =
          std::make_unique<Footprint>(FootprintOf(*cluster_, "router"));
    }
  }
  Add(load.Stop());
  for (const std::string& name : names) ExpectQuiet(name);
  ExpectServes(0, 8);
  const Footprint router = FootprintOf(*cluster_, "router");
  std::cout << kills << " kills over " << GetParam().transport << ": "
            << total_.Text() << "; at most " << most_quarantined
            << " blocks quarantined between kills";
  for (const std::string& name : names) {
    const Footprint now = FootprintOf(*cluster_, name);
    std::cout << "; " << name << " " << now.resident_mib << " MiB "
              << now.descriptors << " descriptors "
              << std::max(0.0, MetricOf(cluster_->Metrics(name),
                                        "sluice_kv_stale_messages_total"))
              << " stale messages refused";
  }
  std::cout << "; router " << router.resident_mib << " MiB, "
            << router.resident_mib - router_before->resident_mib
            << " more in the second half\n";
  EXPECT_GT(total_.count(absl::StatusCode::kOk), 0);
  EXPECT_LE(total_.longest_ms, kStopBoundMs);
  EXPECT_EQ(most_quarantined, 0);
  EXPECT_LE(router.resident_mib, router_before->resident_mib + 16);
  EXPECT_LE(router.descriptors, router_before->descriptors + 16);
  EXPECT_TRUE(cluster_->Stop().ok());
}

class ClusterCancels : public ClusterFaults {};

INSTANTIATE_TEST_SUITE_P(Of, ClusterCancels,
                         testing::Values(Victim{"shm", ""}, Victim{"ucx", ""}),
                         [](const auto& info) { return info.param.transport; });

TEST_P(ClusterCancels, LeaveNothing) {
  ASSERT_NO_FATAL_FAILURE(Start(1, 1));
  for (int round = 0; round < Cycles(3); ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    FaultLoad load(*cluster_, known_, Streams(round, /*cancel_share=*/0.6));
    std::this_thread::sleep_for(std::chrono::seconds(2));
    Add(load.Stop());
    ExpectQuiet("p0");
    ExpectQuiet("d0");
    ExpectServes(3 * round, 3);
    if (HasFailure()) break;
  }
  std::cout << "cancels over " << GetParam().transport << ": " << total_.Text()
            << "\n";
  EXPECT_EQ(total_.count(absl::StatusCode::kUnavailable), 0) << total_.Text();
  EXPECT_GT(total_.count(absl::StatusCode::kCancelled), 0);
  EXPECT_TRUE(cluster_->Stop().ok());
}

}  // namespace
}  // namespace sluice
