#include "base/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/cpu_time.h"
#include "base/log.h"
#include "base/version.h"

namespace sluice {
namespace {

std::string ReadSmallFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Fields of /proc/self/stat after the name, which may hold blanks: [0] is the
// state, field 3 of proc(5).
double StatField(size_t proc_field) {
  const std::string stat = ReadSmallFile("/proc/self/stat");
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(name_end + 2), ' ');
  double value = 0;
  if (proc_field - 3 < fields.size()) {
    (void)absl::SimpleAtod(fields[proc_field - 3], &value);
  }
  return value;
}

double StartTimeSeconds() {
  double boot = 0;
  const std::string stat = ReadSmallFile("/proc/stat");
  for (absl::string_view line : absl::StrSplit(stat, '\n')) {
    if (line.substr(0, 6) == "btime ") {
      (void)absl::SimpleAtod(line.substr(6), &boot);
    }
  }
  return boot + StatField(22) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double OpenFds() {
  DIR* const dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  double count = -1;  // the directory's own
  while (const dirent* entry = readdir(dir)) count += entry->d_name[0] != '.';
  closedir(dir);
  return count;
}

double MaxFds() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

int64_t CgroupLimitBytes() {
  // The limit of the process's own group, or of an outer one, of version 2,
  // else of version 1. In a container the group is the root of the mount.
  int64_t least = 0;
  const auto consider = [&least](const std::string& path) {
    int64_t bytes = 0;
    std::string text = ReadSmallFile(path);
    text.resize(std::min(text.find('\n'), text.size()));
    if (absl::SimpleAtoi(text, &bytes) && bytes > 0) {
      least = least == 0 ? bytes : std::min(least, bytes);
    }
  };
  const std::string groups = ReadSmallFile("/proc/self/cgroup");
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    if (line.substr(0, 3) != "0::") continue;
    std::string group{line.substr(3)};
    while (!group.empty() && group != "/") {
      consider(absl::StrCat("/sys/fs/cgroup", group, "/memory.max"));
      group.resize(group.rfind('/'));
    }
  }
  consider("/sys/fs/cgroup/memory.max");
  consider("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  return least;
}

void RegisterLogMetrics(MetricRegistry& registry) {
  for (int i = 0; i < kNumLogLevels; ++i) {
    registry.AddCallbackCounter(
        "sluice_log_lines_total", "Log lines queued, by level.",
        {{"level", std::string{LogLevelName(static_cast<LogLevel>(i))}}},
        [i] { return static_cast<double>(GetLogCounts().lines[i]); });
  }
  registry.AddCallbackCounter(
      "sluice_log_dropped_total", "Log lines lost: queue full or stderr gone.",
      {}, [] { return static_cast<double>(GetLogCounts().dropped); });
}

}  // namespace

int64_t DetectMemoryLimitBytes() {
  struct sysinfo info {};
  sysinfo(&info);
  const auto machine =
      static_cast<int64_t>(info.totalram) * static_cast<int64_t>(info.mem_unit);
  const int64_t cgroup = CgroupLimitBytes();
  return cgroup > 0 ? std::min(cgroup, machine) : machine;
}

void RegisterProcessMetrics(absl::string_view role, MetricRegistry& registry,
                            int64_t memory_limit_bytes) {
  const auto page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
  registry.AddCallbackCounter("process_cpu_seconds_total",
                              "User and system CPU time.", {},
                              ProcessCpuSeconds);
  registry.AddCallbackGauge("process_virtual_memory_bytes",
                            "Virtual memory size.", {},
                            [] { return StatField(23); });
  registry.AddCallbackGauge(
      "process_resident_memory_bytes", "Resident memory size.", {},
      [page_bytes] { return StatField(24) * page_bytes; });
  registry.AddCallbackGauge("process_open_fds", "Open file descriptors.", {},
                            OpenFds);
  registry.AddCallbackGauge("process_max_fds",
                            "Limit of open file descriptors.", {}, MaxFds);
  registry
      .AddGauge("process_start_time_seconds",
                "Start of the process, Unix time.")
      .Set(StartTimeSeconds());
  registry.AddCallbackGauge("sluice_threads", "Threads of the process.", {},
                            [] { return StatField(20); });
  registry
      .AddGauge("sluice_build_info", "Always 1; what was built.",
                {{"version", kVersion},
                 {"commit", kCommit},
                 {"role", std::string{role}}})
      .Set(1);
  registry
      .AddGauge("sluice_memory_limit_bytes",
                "Configured, cgroup or machine limit of memory.")
      .Set(static_cast<double>(memory_limit_bytes > 0
                                   ? memory_limit_bytes
                                   : DetectMemoryLimitBytes()));
  RegisterLogMetrics(registry);
}

}  // namespace sluice
