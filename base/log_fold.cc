#include "base/log_fold.h"

namespace sluice {
namespace {

constexpr uint64_t kLinesPerWindow = 10;
constexpr int64_t kWindowUs = 1'000'000;
constexpr size_t kMaxWindows = 1024;

}  // namespace

bool LogFold::Passes(const std::string& body, int64_t now_us) {
  auto it = windows_.find(body);
  if (it == windows_.end()) {
    if (windows_.size() >= kMaxWindows) return true;
    it = windows_.emplace(body, Window{now_us, 0}).first;
  }
  return ++it->second.num_lines <= kLinesPerWindow;
}

std::vector<LogFold::Folded> LogFold::TakeEnded(int64_t now_us, bool all) {
  std::vector<Folded> folded;
  for (auto it = windows_.begin(); it != windows_.end();) {
    const Window& window = it->second;
    if (!all && now_us - window.start_us < kWindowUs) {
      ++it;
      continue;
    }
    if (window.num_lines > kLinesPerWindow) {
      folded.push_back({it->first, window.num_lines - kLinesPerWindow});
    }
    it = windows_.erase(it);
  }
  return folded;
}

}  // namespace sluice
