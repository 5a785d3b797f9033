// Workers of a split cluster die or stand still at exact points of the transfer
// protocol (fault_points.h), and bits flip on its wires, under load, as real
// processes: every call ends in a definite way, tokens are those of a run
// without faults, and nothing is held when it is over.
//
// $SLUICE_BOUNDARY_TIMES: how often each point is met with each of death and
// standstill (default: once, with one of them), for longer runs by hand.
// $SLUICE_FLIP_SECONDS: how long bits flip (default 3).

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
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
constexpr int64_t kQuietMs = 2000;
// The router waits 5 s before it gives a silent worker up.
constexpr int64_t kCallBoundMs = 8000;
constexpr int kPointBoundMs = 8000;
constexpr int kServesMs = 5000;

bool IsStopped(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text.size() > name_end + 2 &&
         text[name_end + 2] == 'T';
}

class ClusterBoundaries : public testing::TestWithParam<const char*> {
 protected:
  void Start() {
    const char* root = std::getenv("TEST_TMPDIR");
    plan_ = absl::StrCat(root == nullptr ? "/tmp" : root, "/plan_", getpid());
    WritePlan("none");
    setenv("SLUICE_FAULT_PLAN", plan_.c_str(), 1);
    auto cluster =
        StartFaultCluster({.transport = GetParam(),
                           .prefill = 1,
                           .decode = 1,
                           .worker_binary = "tests/integration/faulty_worker"});
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
    auto known = LearnRequests(*cluster_, kRequests, /*seed=*/20250);
    ASSERT_TRUE(known.ok()) << known.status();
    known_ = *std::move(known);
  }
  ~ClusterBoundaries() override {
    cluster_.reset();
    unlink(plan_.c_str());
  }

  // A line that differs from all before; replaced as a whole.
  void WritePlan(const std::string& line) {
    const std::string next = plan_ + ".next";
    std::ofstream(next) << line << " " << ++plans_ << "\n";
    std::rename(next.c_str(), plan_.c_str());
  }

  // The process of `name` has done what it was told.
  bool Await(const std::string& name, const std::string& action) {
    for (int waited = 0; waited < kPointBoundMs; waited += 2) {
      if (action == "kill" ? !cluster_->IsRunning(name)
                           : IsStopped(cluster_->PidOf(name))) {
        return true;
      }
      std::this_thread::sleep_for(milliseconds(2));
    }
    return false;
  }

  void Add(const LoadReport& report) {
    EXPECT_TRUE(report.complaints.empty()) << report.Text();
    total_.Add(report);
  }
  void ExpectQuiet(const std::string& name, int64_t bound_ms = kQuietMs) {
    const absl::Status quiet = AwaitQuiet(*cluster_, name, bound_ms);
    EXPECT_TRUE(quiet.ok()) << quiet << "\n" << cluster_->EndOfLog(name);
  }
  // Again within kServesMs: what was given up pairs first, and the router has
  // to hear of it.
  void ExpectServes(int first) {
    for (int i = 0; i < 2; ++i) {
      absl::Status status;
      for (int waited = 0; waited <= kServesMs; waited += 50) {
        status = CallKnown(*cluster_, known_[(first + i) % known_.size()]);
        if (!absl::IsUnavailable(status)) break;
        std::this_thread::sleep_for(milliseconds(50));
      }
      EXPECT_TRUE(status.ok()) << status;
    }
  }

  // The point, under load; the worker comes back.
  void Meet(const std::string& name, const std::string& point,
            const std::string& action, int number) {
    const bool kills = action == "kill";
    FaultLoad load(*cluster_, known_,
                   {.streams = 6,
                    .seed = static_cast<uint32_t>(number),
                    .cancel_share = 0.25});
    std::this_thread::sleep_for(milliseconds(30));
    WritePlan(absl::StrCat(name, " ", point, " ", 1 + number % 5, " ", action));
    ASSERT_TRUE(Await(name, action)) << "never came to it";
    WritePlan("none");
    if (kills) {
      ASSERT_TRUE(cluster_->Restart(name).ok());
      const absl::Status ready = cluster_->WaitReady();
      ASSERT_TRUE(ready.ok()) << ready;
    } else {
      // Shorter than what counts as silence, or longer.
      std::this_thread::sleep_for(milliseconds(number % 16 == 1 ? 3500 : 400));
      cluster_->Signal(name, SIGCONT);
      std::this_thread::sleep_for(milliseconds(200));
    }
    Add(load.Stop());
    for (const char* worker : {"p0", "d0"}) {
      ExpectQuiet(worker, kills ? kQuietMs : kQuietMs + 3000);
    }
    ExpectServes(number);
  }

  std::string plan_;
  int plans_ = 0;
  std::unique_ptr<LocalCluster> cluster_;
  std::vector<KnownRequest> known_;
  LoadReport total_;
};

INSTANTIATE_TEST_SUITE_P(Over, ClusterBoundaries, testing::Values("shm", "ucx"),
                         [](const auto& info) { return info.param; });

TEST_P(ClusterBoundaries, OfEveryMessageAndOperation) {
  ASSERT_NO_FATAL_FAILURE(Start());
  struct Side {
    std::string name;
    std::vector<std::string> points;
  };
  std::vector<Side> sides = {
      {"p0",
       {"send:claim", "send:rectangle", "send:attachment", "send:abort",
        "send:stopped"}},
      {"d0", {"send:grant", "send:ack", "send:outcome", "send:stop"}}};
  for (Side& side : sides) {
    std::vector<std::string> points;
    for (const std::string& message : side.points) {
      points.push_back(message + ":before");
      points.push_back(message + ":after");
    }
    side.points = points;
  }
  const bool pulls = std::string(GetParam()) == "shm";
  Side& mover = sides[pulls ? 1 : 0];
  mover.points.push_back(pulls ? "read:start" : "write:start");
  mover.points.push_back(pulls ? "read:end" : "write:end");
  struct Case {
    std::string name, point, action;
  };
  std::vector<Case> cases;
  for (const Side& side : sides) {
    for (const std::string& point : side.points) {
      for (const char* action : {"kill", "stop"}) {
        cases.push_back({side.name, point, action});
      }
    }
  }
  const int times = FromEnvironment("SLUICE_BOUNDARY_TIMES", 0);
  const int all = static_cast<int>(cases.size());
  int met = 0;
  for (int i = 0; i < all * std::max(1, times); ++i) {
    // By default each point has one of the two.
    if (times == 0 && i % 2 != (i / 2 + i / 4) % 2) continue;
    const Case& c = cases[i % all];
    SCOPED_TRACE(absl::StrCat(c.name, " ", c.point, " ", c.action));
    ASSERT_NO_FATAL_FAILURE(Meet(c.name, c.point, c.action, i));
    ++met;
    if (HasFailure()) return;
  }
  std::cout << met << " boundaries over " << GetParam() << ": " << total_.Text()
            << "\n";
  EXPECT_LE(total_.longest_ms, kCallBoundMs);
  EXPECT_TRUE(cluster_->Stop().ok());
}

// Every third operation flips one bit: its transfer fails, and the decode
// worker computes what did not arrive.
TEST_P(ClusterBoundaries, BitsThatFlipChangeNoToken) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const bool pulls = std::string(GetParam()) == "shm";
  WritePlan(pulls ? "d0 read:start 3 flip" : "p0 write:start 3 flip");
  FaultLoad load(*cluster_, known_, {.streams = 6, .seed = 3});
  std::this_thread::sleep_for(
      std::chrono::seconds(FromEnvironment("SLUICE_FLIP_SECONDS", 3)));
  Add(load.Stop());
  WritePlan("none");
  for (const char* worker : {"p0", "d0"}) ExpectQuiet(worker);
  const double seen =
      MetricOf(cluster_->Metrics("d0"), "sluice_kv_digest_failures_total");
  std::cout << seen << " transfers with a flipped bit over " << GetParam()
            << ": " << total_.Text() << "\n";
  EXPECT_GT(seen, 0);
  EXPECT_EQ(total_.count(absl::StatusCode::kOk), total_.total());
  EXPECT_TRUE(cluster_->Stop().ok());
}

}  // namespace
}  // namespace sluice
