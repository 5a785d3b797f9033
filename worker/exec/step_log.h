#ifndef WORKER_EXEC_STEP_LOG_H_
#define WORKER_EXEC_STEP_LOG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kv_view.h"
#include "worker/engine/step_plan.h"

namespace sluice::worker {

// What a replay must know of the worker that wrote the records after it.
struct StepLogHeader {
  std::string model_digest;  // 32 bytes
  std::string numerics_id;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  bool widened_to_f32 = false;
  uint32_t block_tokens = 0;
  uint32_t num_blocks = 0;
  uint32_t max_batch_seqs = 0;
  uint32_t max_batch_tokens = 0;
  uint32_t model_tokens = 0;
};

// Appends steps to a file of length-delimited sluice.steplog.Record. One
// thread at a time; each record is one write, so that a killed worker leaves
// at most its last record cut.
class StepLogWriter {
 public:
  // Opens `path` for appending (made if absent) and writes the header.
  static absl::StatusOr<std::unique_ptr<StepLogWriter>> Open(
      const std::string& path, const StepLogHeader& header);
  ~StepLogWriter();
  StepLogWriter(const StepLogWriter&) = delete;
  StepLogWriter& operator=(const StepLogWriter&) = delete;

  absl::Status Write(const StepPlan& plan, const StepResult& result);

 private:
  StepLogWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::string path_;
  const int fd_;
};

// A record read back: a header, or a step with the results that the log holds
// (token, status and digest; no log-probabilities).
struct StepLogRecord {
  bool is_header = false;
  StepLogHeader header;
  StepPlan plan;
  StepResult result;
};

// All records of a log. kDataLoss naming the byte offset for what is cut or
// malformed.
absl::StatusOr<std::vector<StepLogRecord>> ReadStepLog(const std::string& path);

}  // namespace sluice::worker

#endif  // WORKER_EXEC_STEP_LOG_H_
