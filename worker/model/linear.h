#ifndef WORKER_MODEL_LINEAR_H_
#define WORKER_MODEL_LINEAR_H_

#include <cstdint>
#include <optional>
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

// How the rows of a Linear's sources become the rows of its packed matrix. Part
// of the layout of packed weights, as bytes kept on disk are.
enum class RowOrder : uint8_t {
  kConcatenated,
  // Two sources of one format and height: panels of 16 rows of the one and the
  // other in turn, so that a thread has both of a pair (matmul.h, silu_mul).
  kPairedPanels,
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

  // The same for gate and up: kPairedPanels where their formats and heights
  // (whole panels) allow it.
  static absl::StatusOr<Linear> PlanPaired(
      const WeightFile& weights, absl::Span<const LinearSource> gate_and_up,
      int64_t k, bool widen_to_f32);

  RowOrder row_order() const { return row_order_; }

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

  // y [rows, n] from x [rows, k]; `accumulate` adds to y. kPairedPanels give
  // silu(gate) * up instead, y [rows, n / 2]. All of it is one op (the threads
  // meet once) unless the parts take x in different forms.
  //
  //   scratch      ScratchBytes(rows), 64-byte aligned
  //   norm_weight  [k] or null: x is RMS-normalised first
  //   packed_x     x as PackedInput() describes it, instead of x, norm, scratch
  //   packed_y     kPairedPanels only: takes y packed, instead of y, or null
  struct Args {
    kernels::MatrixView<const float> x;
    kernels::MatrixView<float> y;
    bool accumulate = false;
    uint8_t* scratch = nullptr;
    const float* norm_weight = nullptr;
    float epsilon = 0;
    const kernels::Activations* packed_x = nullptr;
    const kernels::Activations* packed_y = nullptr;
  };
  void Apply(const kernels::OpContext& context, const kernels::OpTable& ops,
             const Args& args) const;

  // Where `rows` rows go to be packed_x, in ScratchBytes(rows); none when the
  // parts take x in different forms.
  std::optional<kernels::Activations> PackedInput(int64_t rows,
                                                  uint8_t* bytes) const;

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

  // Stored rows that lie together.
  struct StoredRun {
    kernels::StoredRows stored;
    const MappedFile* file = nullptr;  // null: not of a file
  };

  // Parts [first, last) take x in one form; the first one's y begins at
  // `column`.
  struct Run {
    size_t first = 0;
    size_t last = 0;
    int64_t column = 0;
  };
  void Multiply(const kernels::OpContext& context, const kernels::OpTable& ops,
                const Args& args, const Run& run) const;
  // The stored rows of `part` in row_order_.
  absl::StatusOr<std::vector<StoredRun>> PackedOrder(const WeightFile& weights,
                                                     const Part& part) const;
  absl::Status PackPart(const kernels::OpContext& context,
                        const WeightFile& weights, const Part& part,
                        uint8_t* packed_bytes) const;

  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t stored_bytes_ = 0;
  bool widen_to_f32_ = false;
  RowOrder row_order_ = RowOrder::kConcatenated;
  std::vector<Part> parts_;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_LINEAR_H_
