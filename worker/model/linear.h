#ifndef WORKER_MODEL_LINEAR_H_
#define WORKER_MODEL_LINEAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/matmul.h"
#include "kernels/op_table.h"
#include "worker/model/page_memory.h"
#include "worker/model/weight_file.h"

namespace sluice::worker {

// One stored matrix [rows, k] that goes into a Linear.
struct LinearSource {
  std::string weight;  // tensor name
  std::string bias;    // tensor name; empty: none
  int64_t rows = 0;
};

// y = x W^T (+ bias) where W is the concatenation of stored matrices, kept
// repacked: neighbours of one format become one product. Immutable once
// placed; the packed bytes belong to the memory given to Place().
class Linear {
 public:
  // Checks the tensors and plans the parts; reads no weights yet. The errors
  // are those of WeightFile::Want.
  static absl::StatusOr<Linear> Plan(const WeightFile& weights,
                                     absl::Span<const LinearSource> sources,
                                     int64_t k, bool widen_to_f32);

  int64_t packed_bytes() const;  // what Pack() takes from the cutter
  int64_t stored_bytes() const;  // what it reads

  // kDataLoss when a file changed or a bias is not finite.
  absl::Status ReadBiases(const WeightFile& weights);

  // Repacks into pieces of `memory`, 32 MiB of the stored bytes at a time,
  // whose pages are dropped as they are read. kDataLoss when a file changed.
  absl::Status Pack(const kernels::OpContext& context,
                    const WeightFile& weights, PieceCutter* memory) const;

  // From here on computes with the packed bytes in pieces of `memory`, which
  // Pack() filled in the same order, here or in another process.
  void Place(PieceCutter* memory);

  // What the packed bytes depend on besides the stored ones: formats, sizes
  // and names in order, a line a matrix.
  std::string PackedText() const;

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }

  // Of a call with that many rows.
  int64_t ScratchBytes(int64_t rows) const;

  // y [rows, n] from x [rows, k]; `accumulate` adds to y. `scratch` has
  // ScratchBytes(rows), 64-byte aligned.
  struct Args {
    kernels::MatrixView<const float> x;
    kernels::MatrixView<float> y;
    bool accumulate = false;
    uint8_t* scratch = nullptr;
  };
  void Apply(const kernels::OpContext& context, const kernels::OpTable& ops,
             const Args& args) const;

  // The one matrix it consists of: only for a Linear of one source.
  const kernels::PackedMatrix& matrix() const;

 private:
  struct Part {
    kernels::WeightFormat stored = kernels::WeightFormat::kF32;
    std::vector<LinearSource> sources;
    int64_t rows = 0;
    kernels::PackedMatrix packed;
    std::vector<float> bias;
  };

  absl::Status PackPart(const kernels::OpContext& context,
                        const WeightFile& weights, const Part& part,
                        uint8_t* packed_bytes) const;

  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t stored_bytes_ = 0;
  bool widen_to_f32_ = false;
  std::vector<Part> parts_;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_LINEAR_H_
