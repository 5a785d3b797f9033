#include "base/process.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/exit_code.h"
#include "base/ids.h"
#include "base/inbox.h"
#include "base/log.h"
#include "base/process_metrics.h"
#include "base/random.h"
#include "base/thread.h"
#include "base/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(SignalWatcherTest, CountsStopsAndTurnsDebugOn) {
  Inbox<std::pair<int, int>> got;
  auto watcher =
      SignalWatcher::Start({.on_stop =
                                [&](int signal, int nth) {
                                  got.Push({signal, nth});
                                },
                            .on_debug =
                                [&] {
                                  got.Push({SIGUSR1, LogEnabled(kDebug)});
                                },
                            .on_profile =
                                [&] {
                                  got.Push({SIGUSR2, 0});
                                }});
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  std::vector<std::pair<int, int>> all;
  const auto send = [&](int signal) {
    kill(getpid(), signal);
    const size_t want = all.size() + 1;
    while (all.size() < want) {
      for (const auto& one : got.Drain(std::chrono::seconds(10))) {
        all.push_back(one);
      }
    }
  };
  EXPECT_FALSE(LogEnabled(kDebug));
  send(SIGTERM);
  send(SIGUSR1);
  send(SIGUSR2);
  send(SIGINT);
  LogDebugFor(0);
  EXPECT_THAT(all, ElementsAre(Pair(SIGTERM, 1), Pair(SIGUSR1, 1),
                               Pair(SIGUSR2, 0), Pair(SIGINT, 2)));
  // A write to a pipe without a reader is an error, not the end.
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  close(fds[0]);
  EXPECT_EQ(write(fds[1], "x", 1), -1);
  close(fds[1]);
}

TEST(ExitProcessTest, FlushesTheLog) {
  // The log's thread must exist in the child.
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        Log(kError, "last words");
        ExitProcess(ExitCode::kConfiguration);
      },
      ::testing::ExitedWithCode(78), "last words");
}

TEST(ExitCodeTest, ByPhase) {
  struct Case {
    StartPhase phase;
    absl::Status status;
    int want;
  };
  const Case cases[] = {
      {StartPhase::kRun, absl::OkStatus(), 0},
      {StartPhase::kCommandLine, absl::InvalidArgumentError(""), 64},
      {StartPhase::kConfig, absl::InvalidArgumentError(""), 64},
      {StartPhase::kConfig, absl::FailedPreconditionError(""), 78},
      {StartPhase::kModel, absl::InvalidArgumentError(""), 65},
      {StartPhase::kModel, absl::NotFoundError(""), 65},
      {StartPhase::kModel, absl::DataLossError(""), 65},
      {StartPhase::kModel, absl::UnavailableError(""), 69},
      {StartPhase::kModel, absl::FailedPreconditionError(""), 78},
      {StartPhase::kModel, absl::InternalError(""), 70},
      {StartPhase::kModel, absl::PermissionDeniedError(""), 77},
      {StartPhase::kListen, absl::UnavailableError(""), 69},
      {StartPhase::kListen, absl::InvalidArgumentError(""), 78},
      {StartPhase::kRun, absl::InternalError(""), 70},
      {StartPhase::kRun, absl::UnavailableError(""), 69},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(static_cast<int>(ExitCodeFor(c.phase, c.status)), c.want)
        << static_cast<int>(c.phase) << " " << c.status;
  }
}

TEST(ThreadTest, NamesAndStops) {
  std::string name;
  bool stopped = false;
  {
    std::jthread thread =
        StartThread("a-name-longer-than-15", [&](std::stop_token stop) {
          name = CurrentThreadName();
          while (!stop.stop_requested()) std::this_thread::yield();
          stopped = true;
        });
  }
  EXPECT_EQ(name, "a-name-longer-t");
  EXPECT_TRUE(stopped);
}

TEST(IdsTest, AreValues) {
  using AId = StrongId<struct ATag, uint32_t>;
  using BId = StrongId<struct BTag, uint32_t>;
  static_assert(!std::is_convertible_v<AId, BId>);
  static_assert(!std::is_convertible_v<uint32_t, AId>);
  static_assert(sizeof(AId) == 4);
  EXPECT_LT(AId(1), AId(2));
  EXPECT_EQ(AId(), AId(0));
  absl::flat_hash_set<AId> set = {AId(1), AId(2), AId(1)};
  EXPECT_EQ(set.size(), 2u);
  EXPECT_EQ(std::hash<AId>()(AId(7)), std::hash<uint32_t>()(7));
}

TEST(RandomTest, IsRandomAndHex) {
  EXPECT_NE(RandomBytes(16), RandomBytes(16));
  EXPECT_EQ(RandomBytes(300).size(), 300u);
  EXPECT_NE(RandomU64(), RandomU64());
  EXPECT_THAT(RandomHexId(4), ::testing::MatchesRegex("[0-9a-f]{8}"));
  EXPECT_TRUE(ConstantTimeEqual("abc", "abc"));
  EXPECT_FALSE(ConstantTimeEqual("abc", "abd"));
  EXPECT_FALSE(ConstantTimeEqual("abc", "ab"));
  EXPECT_TRUE(ConstantTimeEqual("", ""));
}

TEST(VersionTest, Line) {
  EXPECT_THAT(VersionLine("sluice-router"),
              HasSubstr("sluice-router 0.1.0 (commit "));
}

double ValueOf(const std::string& text, const std::string& series) {
  const size_t at = text.find("\n" + series + " ");
  EXPECT_NE(at, std::string::npos) << series;
  return at == std::string::npos
             ? 0
             : std::stod(text.substr(at + series.size() + 2));
}

TEST(ProcessMetricsTest, TellTheTruth) {
  MetricRegistry registry;
  RegisterProcessMetrics("router", registry);
  const std::string text = registry.TextExposition();
  const double now = static_cast<double>(time(nullptr));
  EXPECT_GT(ValueOf(text, "process_start_time_seconds"), now - 3600);
  EXPECT_LE(ValueOf(text, "process_start_time_seconds"), now + 2);
  EXPECT_GT(ValueOf(text, "process_resident_memory_bytes"), 1 << 20);
  EXPECT_GE(ValueOf(text, "process_virtual_memory_bytes"),
            ValueOf(text, "process_resident_memory_bytes"));
  EXPECT_GE(ValueOf(text, "process_open_fds"), 3);
  EXPECT_GT(ValueOf(text, "process_max_fds"),
            ValueOf(text, "process_open_fds"));
  EXPECT_GE(ValueOf(text, "sluice_threads"), 1);
  EXPECT_GT(ValueOf(text, "sluice_memory_limit_bytes"), 1 << 20);
  EXPECT_EQ(ValueOf(text, "sluice_build_info{version=\"0.1.0\",commit=\"" +
                              std::string(kCommit) + "\",role=\"router\"}"),
            1);
  EXPECT_GE(ValueOf(text, "process_cpu_seconds_total"), 0);
  const double lines = ValueOf(text, "sluice_log_lines_total{level=\"info\"}");
  Log(kInfo, "one more");
  EXPECT_EQ(ValueOf(registry.TextExposition(),
                    "sluice_log_lines_total{level=\"info\"}"),
            lines + 1);
  int fds[2];
  const double open_before =
      ValueOf(registry.TextExposition(), "process_open_fds");
  ASSERT_EQ(pipe(fds), 0);
  EXPECT_EQ(ValueOf(registry.TextExposition(), "process_open_fds"),
            open_before + 2);
  close(fds[0]);
  close(fds[1]);
  MetricRegistry limited;
  RegisterProcessMetrics("worker", limited, 12345);
  EXPECT_EQ(ValueOf(limited.TextExposition(), "sluice_memory_limit_bytes"),
            12345);
}

}  // namespace
}  // namespace sluice
