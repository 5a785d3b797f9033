#ifndef KVTRANSFER_STREAM_COVERAGE_H_
#define KVTRANSFER_STREAM_COVERAGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {

// kInvalidArgument: the rectangle, and why.
absl::Status Illegal(const Rectangle& r, absl::string_view why);

// Which tokens x layers of a stream have been announced. Bits are spans x
// layers; a rectangle must cover free bits only.
class StreamCoverage {
 public:
  StreamCoverage(const StreamPlan& stream, uint32_t skip_tokens,
                 uint32_t num_tokens);

  // kInvalidArgument: outside the stream, not on span boundaries, empty, or
  // overlapping what is covered. OK marks it covered.
  absl::Status Cover(const Rectangle& rectangle);
  bool complete() const { return covered_ == bits_.size(); }
  // No stream has more rectangles than this.
  size_t max_rectangles() const { return bits_.size(); }

 private:
  absl::Status Check(const Rectangle& rectangle) const;

  uint32_t span_tokens_;
  uint32_t skip_tokens_;
  uint32_t num_tokens_;
  uint32_t l0_;
  uint32_t l1_;
  uint32_t first_span_;
  std::vector<bool> bits_;
  size_t covered_ = 0;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_STREAM_COVERAGE_H_
