#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "worker/cache/memory_planner.h"

namespace sluice::worker {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// The number a file holds; kUnknown for "max" or none.
int64_t NumberIn(const std::string& path) {
  std::ifstream in(path);
  std::string word;
  int64_t value = 0;
  if (!(in >> word) || !absl::SimpleAtoi(word, &value)) return kUnknown;
  return value;
}

int64_t MemAvailableBytes() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (in >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(in, unit);
  }
  return kUnknown;
}

// Page cache the kernel would give back first, of a cgroup directory.
int64_t InactiveFileBytes(const std::string& dir) {
  std::ifstream in(dir + "/memory.stat");
  std::string key;
  int64_t bytes = 0;
  while (in >> key >> bytes) {
    if (key == "inactive_file") return bytes;
  }
  return 0;
}

// What this process's cgroup (v2) and those above it leave.
int64_t CgroupLeftBytes() {
  std::ifstream in("/proc/self/cgroup");
  int64_t left = kUnknown;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("0::", 0) != 0) continue;
    std::string path = line.substr(3);
    while (true) {
      if (path == "/") path.clear();
      const std::string dir = absl::StrCat("/sys/fs/cgroup", path);
      const int64_t max = NumberIn(dir + "/memory.max");
      const int64_t current = NumberIn(dir + "/memory.current");
      if (max != kUnknown && current != kUnknown) {
        const int64_t used =
            std::max<int64_t>(0, current - InactiveFileBytes(dir));
        left = std::min(left, std::max<int64_t>(0, max - used));
      }
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return left;
}

}  // namespace

int64_t FreeHostBytes() {
  const int64_t free = std::min(MemAvailableBytes(), CgroupLeftBytes());
  return free == kUnknown ? 0 : free;
}

}  // namespace sluice::worker
