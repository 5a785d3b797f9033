#include "kvtransfer/stream_coverage.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {

absl::Status Illegal(const Rectangle& r, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("rectangle tokens [", r.t0,
                                                 ", ", r.t1, ") layers [", r.l0,
                                                 ", ", r.l1, ") ", why));
}

StreamCoverage::StreamCoverage(const StreamPlan& stream, uint32_t skip_tokens,
                               uint32_t num_tokens)
    : span_tokens_(stream.span_tokens()),
      skip_tokens_(skip_tokens),
      num_tokens_(num_tokens),
      l0_(stream.l0),
      l1_(stream.l1),
      first_span_(skip_tokens / span_tokens_) {
  const uint32_t spans =
      (num_tokens + span_tokens_ - 1) / span_tokens_ - first_span_;
  bits_.assign(size_t{spans} * (l1_ - l0_), false);
}

absl::Status StreamCoverage::Check(const Rectangle& r) const {
  if (r.t0 >= r.t1 || r.l0 >= r.l1 || r.t0 < skip_tokens_ ||
      r.t1 > num_tokens_ || r.l0 < l0_ || r.l1 > l1_) {
    return Illegal(r, "is outside the plan");
  }
  if ((r.t0 % span_tokens_ != 0 && r.t0 != skip_tokens_) ||
      (r.t1 % span_tokens_ != 0 && r.t1 != num_tokens_)) {
    return Illegal(r, absl::StrCat("is not on multiples of ", span_tokens_));
  }
  return absl::OkStatus();
}

absl::Status StreamCoverage::Cover(const Rectangle& r) {
  RETURN_IF_ERROR(Check(r));
  const uint32_t s0 = r.t0 / span_tokens_ - first_span_;
  const uint32_t s1 = (r.t1 + span_tokens_ - 1) / span_tokens_ - first_span_;
  for (const bool mark : {false, true}) {
    for (uint32_t span = s0; span < s1; ++span) {
      for (uint32_t layer = r.l0 - l0_; layer < r.l1 - l0_; ++layer) {
        const size_t bit = size_t{span} * (l1_ - l0_) + layer;
        if (mark) {
          bits_[bit] = true;
          ++covered_;
        } else if (bits_[bit]) {
          return Illegal(r, "overlaps another");
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice::kvtransfer
