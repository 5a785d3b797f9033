#ifndef WORKER_EXEC_STEP_PROFILER_H_
#define WORKER_EXEC_STEP_PROFILER_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/types/span.h"
#include "kernels/tensor_view.h"
#include "worker/model/op_profile.h"

namespace sluice::worker {

// Where the time of some consecutive steps went.
struct StepProfile {
  int64_t steps = 0;
  int64_t step_nanos = 0;  // of all of them; the ops leave a rest
  OpProfile ops;
  double read_bytes_per_second = 0;  // of the weights, all threads, just after
};

// The share of the time of `entry` that reading its bytes at that rate takes;
// 0 where it reads little. Low: the op computes, or it is far from the limit.
double ReadShare(const OpProfile::Entry& entry, double read_bytes_per_second);

// Measures the next steps when asked. Without a request a step costs one load.
class StepProfiler {
 public:
  // `done` runs on the rank thread. `weights` are read once more at the end,
  // to know what memory gives: the step after waits for that.
  using Done = std::function<void(const StepProfile&)>;
  StepProfiler(absl::Span<const uint8_t> weights, Done done)
      : weights_(weights), done_(std::move(done)) {}

  // Any thread. False while an earlier request is being measured.
  bool Request(int64_t steps);

  // Rank thread, around each step that computes. Begin() gives the profile to
  // fill, or null.
  OpProfile* Begin();
  void End(const kernels::OpContext& context, int64_t step_nanos);

 private:
  const absl::Span<const uint8_t> weights_;
  const Done done_;
  std::atomic<int64_t> left_{0};  // steps still to measure
  StepProfile profile_;           // rank thread
};

}  // namespace sluice::worker

#endif  // WORKER_EXEC_STEP_PROFILER_H_
