#ifndef TESTS_KERNELS_SAMPLE_FIXTURE_H_
#define TESTS_KERNELS_SAMPLE_FIXTURE_H_

#include <algorithm>
#include <vector>

#include "kernels/aligned_bytes.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_table.h"
#include "kernels/sample.h"

namespace sluice::kernels {

// Samples rows with one op table; owns pool and scratch.
class RowSampling {
 public:
  RowSampling(const OpTable& ops, int64_t vocab, int threads = 1)
      : ops_(ops),
        vocab_(vocab),
        pool_(threads),
        scratch_(SampleScratchBytes(vocab, threads)) {
    std::fill(scratch_.data(), scratch_.data() + scratch_.size(),
              uint8_t{0xff});
  }

  const std::vector<int32_t>& Run(const std::vector<SampleRow>& rows) {
    tokens_.assign(rows.size(), -7);
    status_.assign(rows.size(), SampleStatus::kOk);
    ops_.sample({&pool_}, {.rows = rows,
                           .vocab = vocab_,
                           .scratch = scratch_.data(),
                           .tokens = tokens_.data(),
                           .status = status_.data()});
    return tokens_;
  }
  int32_t One(const SampleRow& row) { return Run({row})[0]; }
  SampleStatus StatusOf(const SampleRow& row) {
    Run({row});
    return status_[0];
  }
  const std::vector<SampleStatus>& status() const { return status_; }

 private:
  const OpTable& ops_;
  const int64_t vocab_;
  ThreadPool pool_;
  AlignedBytes scratch_;
  std::vector<int32_t> tokens_;
  std::vector<SampleStatus> status_;
};

}  // namespace sluice::kernels

#endif  // TESTS_KERNELS_SAMPLE_FIXTURE_H_
