#include "router/text/stop_strings.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;

bool IsLegal(const std::string& stop) {
  return !stop.empty() && stop.size() <= kMaxStopBytes &&
         FindInvalidUtf8(stop) == absl::string_view::npos;
}

}  // namespace

absl::StatusOr<StopMatcher> StopMatcher::Create(StopOptions options) {
  if (options.stops.size() > kMaxStops ||
      !std::all_of(options.stops.begin(), options.stops.end(), IsLegal)) {
    return absl::InvalidArgumentError(
        "stop must be at most 16 non-empty strings of at most 256 bytes");
  }
  return StopMatcher(std::move(options));
}

int StopMatcher::LongestStopEndingAt(size_t end) const {
  int best = -1;
  size_t best_bytes = 0;
  const absl::string_view before = absl::string_view(held_).substr(0, end);
  for (size_t i = 0; i < options_.stops.size(); ++i) {
    const std::string& stop = options_.stops[i];
    if (stop.size() > best_bytes && absl::EndsWith(before, stop)) {
      best = static_cast<int>(i);
      best_bytes = stop.size();
    }
  }
  return best;
}

size_t StopMatcher::UndecidedBytes() const {
  size_t undecided = 0;
  const absl::string_view held = held_;
  for (const std::string& stop : options_.stops) {
    for (size_t size = std::min(stop.size() - 1, held.size()); size > undecided;
         --size) {
      if (absl::StartsWith(stop, held.substr(held.size() - size))) {
        undecided = size;
      }
    }
  }
  return undecided;
}

StopMatcher::Output StopMatcher::Push(absl::string_view delta,
                                      int64_t num_generated) {
  if (stopped_) return {};
  if (options_.stops.empty()) return {absl::StrCat(delta), std::nullopt};
  const size_t first_new = held_.size();
  absl::StrAppend(&held_, delta);

  if (num_generated > options_.min_tokens) {
    for (size_t end = first_new + 1; end <= held_.size(); ++end) {
      const int index = LongestStopEndingAt(end);
      if (index < 0) continue;
      const size_t stop_bytes =
          options_.stops[static_cast<size_t>(index)].size();
      held_.resize(options_.include_stop ? end : end - stop_bytes);
      stopped_ = true;
      return {std::exchange(held_, {}), index};
    }
  }
  const size_t decided = held_.size() - UndecidedBytes();
  Output output{held_.substr(0, decided), std::nullopt};
  held_.erase(0, decided);
  return output;
}

std::string StopMatcher::Finish() { return std::exchange(held_, {}); }

}  // namespace sluice::router
