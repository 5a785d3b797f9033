#ifndef ROUTER_TEXT_STOP_STRINGS_H_
#define ROUTER_TEXT_STOP_STRINGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

struct StopOptions {
  std::vector<std::string> stops;  // valid UTF-8, none empty
  bool include_stop = false;       // the match stays in the text
  // A match that ends within the first `min_tokens` generated tokens is
  // ignored.
  int64_t min_tokens = 0;
};

// Looks for stop strings in a text that arrives in parts. Holds back only
// what may still become a match. The match that completes first wins; among
// those that complete at the same byte the longest, then the first in the
// list. One thread at a time.
class StopMatcher {
 public:
  // kInvalidArgument with the text of spec/sampling.md section 2: more than
  // 16 stops, an empty one, one over 256 bytes or not UTF-8.
  static absl::StatusOr<StopMatcher> Create(StopOptions options);

  struct Output {
    std::string text;               // may be sent now
    std::optional<int> stop_index;  // the stop that matched: nothing follows
  };

  // `delta`: whole code points. `num_generated`: generated tokens so far, up
  // to and including the one that gave `delta`; never decreases. After a match
  // every call gives nothing.
  Output Push(absl::string_view delta, int64_t num_generated);

  // What is held back, once no more text comes.
  std::string Finish();

 private:
  explicit StopMatcher(StopOptions options) : options_(std::move(options)) {}

  // Index of the longest stop that ends at `end`, or -1.
  int LongestStopEndingAt(size_t end) const;
  // Bytes at the end of held_ that are a proper beginning of some stop.
  size_t UndecidedBytes() const;

  StopOptions options_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_STOP_STRINGS_H_
