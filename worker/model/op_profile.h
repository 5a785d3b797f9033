#ifndef WORKER_MODEL_OP_PROFILE_H_
#define WORKER_MODEL_OP_PROFILE_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sluice::worker {

// The parts of a step whose time is told apart, in the order in which a step
// comes to them. A product's time has that of its norm and packing.
enum class StepOp : uint8_t {
  kCopyBlocks,
  kEmbedding,
  kQkv,
  kHeadNorm,
  kAppendKv,
  kAttention,
  kDigestKv,
  kOutput,
  kGateUp,
  kSiluMul,
  kDown,
  kHead,
  kSample,
  kLogprobs,
};
inline constexpr size_t kNumStepOps =
    static_cast<size_t>(StepOp::kLogprobs) + 1;

absl::string_view Name(StepOp op);  // "copy_blocks", "embedding", ...

// Wall time of each op over some steps, as the rank thread saw it: barriers
// and the other threads' lag count for the op they end. One thread at a time.
class OpProfile {
 public:
  struct Entry {
    int64_t calls = 0;
    int64_t nanos = 0;
    int64_t bytes = 0;  // weights and KV entries read; 0 where that is little
  };

  void Add(StepOp op, int64_t nanos, int64_t bytes) {
    Entry& entry = entries_[static_cast<size_t>(op)];
    ++entry.calls;
    entry.nanos += nanos;
    entry.bytes += bytes;
  }

  const Entry& of(StepOp op) const { return entries_[static_cast<size_t>(op)]; }

 private:
  std::array<Entry, kNumStepOps> entries_;
};

// Tells ops that run one after another apart: each Done() adds the time since
// the one before (or since construction). Does nothing without a profile.
class OpLap {
 public:
  explicit OpLap(OpProfile* profile) : profile_(profile) { Restart(); }

  void Restart() {
    if (profile_ != nullptr) begin_ = std::chrono::steady_clock::now();
  }
  void Done(StepOp op, int64_t bytes = 0) {
    if (profile_ == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    profile_->Add(op, std::chrono::nanoseconds(now - begin_).count(), bytes);
    begin_ = now;
  }

 private:
  OpProfile* const profile_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_OP_PROFILE_H_
