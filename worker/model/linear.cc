#include "worker/model/linear.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::worker {

using kernels::WeightFormat;

namespace {

constexpr int64_t kPieceBytes = 32 << 20;  // of stored rows, packed at a time

// Rows of a panel of a packed matrix.
constexpr int64_t kPanelRows = 16;

// As many as a Linear has sources at most (q, k and v).
constexpr size_t kMaxParts = 3;

kernels::ActivationKind KindOf(const kernels::PackedMatrix& matrix) {
  return kernels::ActivationKindFor(matrix.format);
}

// The first half and the second half of `bias` by panels in turn.
void PairPanels(std::vector<float>* bias) {
  const std::vector<float> before = *bias;
  const size_t half = before.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const size_t at = i / kPanelRows * 2 * kPanelRows + i % kPanelRows;
    (*bias)[at] = before[i];
    (*bias)[at + kPanelRows] = before[half + i];
  }
}

}  // namespace

absl::StatusOr<Linear> Linear::Plan(const WeightFile& weights,
                                    absl::Span<const LinearSource> sources,
                                    int64_t k, bool widen_to_f32) {
  Linear linear;
  linear.k_ = k;
  linear.widen_to_f32_ = widen_to_f32;
  for (const LinearSource& source : sources) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor,
                     weights.Want(source.weight, {source.rows, k}));
    if (!source.bias.empty()) {
      RETURN_IF_ERROR(weights.Want(source.bias, {source.rows}).status());
    }
    if (linear.parts_.empty() ||
        linear.parts_.back().stored != *tensor->format) {
      linear.parts_.emplace_back();
      linear.parts_.back().stored = *tensor->format;
    }
    Part& part = linear.parts_.back();
    part.sources.push_back(source);
    part.rows += source.rows;
    linear.n_ += source.rows;
    linear.stored_bytes_ += static_cast<int64_t>(tensor->num_bytes);
  }
  for (Part& part : linear.parts_) {
    part.packed.format = widen_to_f32 ? WeightFormat::kF32 : part.stored;
    part.packed.n = part.rows;
    part.packed.k = k;
  }
  return linear;
}

absl::StatusOr<Linear> Linear::PlanPaired(
    const WeightFile& weights, absl::Span<const LinearSource> gate_and_up,
    int64_t k, bool widen_to_f32) {
  SLUICE_CHECK(gate_and_up.size() == 2);
  ASSIGN_OR_RETURN(Linear linear, Plan(weights, gate_and_up, k, widen_to_f32));
  if (linear.parts_.size() == 1 && gate_and_up[0].rows == gate_and_up[1].rows &&
      gate_and_up[0].rows % kPanelRows == 0) {
    linear.row_order_ = RowOrder::kPairedPanels;
  }
  return linear;
}

int64_t Linear::packed_bytes() const {
  int64_t bytes = 0;
  for (const Part& part : parts_) {
    bytes += PieceCutter::PieceBytes(
        kernels::PackedBytes(part.packed.format, part.rows, k_));
  }
  return bytes;
}

int64_t Linear::stored_bytes() const { return stored_bytes_; }

absl::Status Linear::ReadBiases(const WeightFile& weights) {
  for (Part& part : parts_) {
    for (const LinearSource& source : part.sources) {
      if (source.bias.empty()) continue;
      ASSIGN_OR_RETURN(std::vector<float> bias,
                       weights.WantVector(source.bias, source.rows));
      part.bias.insert(part.bias.end(), bias.begin(), bias.end());
    }
    SLUICE_CHECK(part.bias.empty() ||
                 static_cast<int64_t>(part.bias.size()) == part.rows);
    if (row_order_ == RowOrder::kPairedPanels) PairPanels(&part.bias);
  }
  return absl::OkStatus();
}

absl::Status Linear::Pack(const kernels::OpContext& context,
                          const WeightFile& weights,
                          PieceCutter* memory) const {
  for (const Part& part : parts_) {
    RETURN_IF_ERROR(PackPart(
        context, weights, part,
        memory->Take(kernels::PackedBytes(part.packed.format, part.rows, k_))));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Linear::StoredRun>> Linear::PackedOrder(
    const WeightFile& weights, const Part& part) const {
  std::vector<StoredRun> whole;
  for (const LinearSource& source : part.sources) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor,
                     weights.Want(source.weight, {source.rows, k_}));
    whole.push_back({.stored = {.bytes = tensor->bytes, .rows = source.rows},
                     .file = tensor->file.get()});
  }
  if (row_order_ == RowOrder::kConcatenated) return whole;
  const int64_t panel_bytes =
      kPanelRows * kernels::StoredRowBytes(part.stored, k_);
  std::vector<StoredRun> panels;
  for (int64_t p = 0; p < whole[0].stored.rows / kPanelRows; ++p) {
    for (const StoredRun& side : whole) {
      panels.push_back({.stored = {.bytes = side.stored.bytes + p * panel_bytes,
                                   .rows = kPanelRows},
                        .file = side.file});
    }
  }
  return panels;
}

absl::Status Linear::PackPart(const kernels::OpContext& context,
                              const WeightFile& weights, const Part& part,
                              uint8_t* packed_bytes) const {
  ASSIGN_OR_RETURN(const std::vector<StoredRun> runs,
                   PackedOrder(weights, part));
  const int64_t row_bytes = kernels::StoredRowBytes(part.stored, k_);
  const int64_t piece_rows =
      std::max<int64_t>(kPieceBytes / row_bytes / 32, 1) * 32;
  for (int64_t begin = 0; begin < part.rows; begin += piece_rows) {
    const int64_t end = std::min(begin + piece_rows, part.rows);
    std::vector<kernels::StoredRows> rows;
    std::vector<StoredRun> read;  // the same, neighbours in a file together
    int64_t first = 0;            // of the run
    for (const StoredRun& run : runs) {
      const int64_t from = std::max(begin, first);
      const int64_t to = std::min(end, first + run.stored.rows);
      const uint8_t* const bytes =
          run.stored.bytes + (from - first) * row_bytes;
      first += run.stored.rows;
      if (from >= to) continue;
      rows.push_back({.bytes = bytes, .rows = to - from});
      const auto before =
          std::find_if(read.begin(), read.end(), [&](const StoredRun& r) {
            return r.stored.bytes + r.stored.rows * row_bytes == bytes &&
                   r.file == run.file;
          });
      if (before != read.end()) {
        before->stored.rows += to - from;
      } else {
        read.push_back({.stored = rows.back(), .file = run.file});
      }
    }
    kernels::PackMatrix(
        context,
        {.format = part.stored,
         .k = k_,
         .parts = rows,
         .widen_to_f32 = widen_to_f32_,
         .packed_bytes = packed_bytes +
                         kernels::PackedBytes(part.packed.format, begin, k_)});
    for (const StoredRun& run : read) {
      if (run.file == nullptr) continue;
      run.file->Drop(run.stored.bytes,
                     static_cast<uint64_t>(run.stored.rows * row_bytes));
    }
  }
  return absl::OkStatus();
}

void Linear::Place(PieceCutter* memory) {
  for (Part& part : parts_) {
    part.packed.bytes =
        memory->Take(kernels::PackedBytes(part.packed.format, part.rows, k_));
  }
}

std::string Linear::PackedText() const {
  std::string text =
      row_order_ == RowOrder::kPairedPanels ? "paired panels\n" : "";
  for (const Part& part : parts_) {
    absl::StrAppend(&text, kernels::Name(part.stored), ">",
                    kernels::Name(part.packed.format), " ", part.rows, "x", k_);
    for (const LinearSource& source : part.sources) {
      absl::StrAppend(&text, " ", source.weight, ":", source.rows);
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

int64_t Linear::ScratchBytes(int64_t rows) const {
  int64_t bytes = 0;
  for (const Part& part : parts_) {
    bytes = std::max(
        bytes, kernels::ActivationBytes(
                   kernels::ActivationKindFor(part.packed.format), rows, k_));
  }
  return bytes;
}

std::optional<kernels::Activations> Linear::PackedInput(int64_t rows,
                                                        uint8_t* bytes) const {
  const kernels::ActivationKind kind = KindOf(parts_[0].packed);
  for (const Part& part : parts_) {
    if (KindOf(part.packed) != kind) return std::nullopt;
  }
  return kernels::Activations{
      .kind = kind, .rows = rows, .k = k_, .bytes = bytes};
}

void Linear::Multiply(const kernels::OpContext& context,
                      const kernels::OpTable& ops, const Args& args,
                      const Run& run) const {
  std::array<kernels::MatmulPart, kMaxParts> products;
  SLUICE_CHECK(run.last - run.first <= kMaxParts);
  const int sides = row_order_ == RowOrder::kPairedPanels ? 2 : 1;
  int64_t column = run.column;
  for (size_t i = run.first; i < run.last; ++i) {
    const Part& part = parts_[i];
    products[i - run.first] = {
        .w = part.packed,
        .bias = part.bias.empty() ? nullptr : part.bias.data(),
        .y = {.data = args.y.data + column,
              .rows = args.y.rows,
              .cols = part.rows / sides,
              .stride = args.y.stride}};
    column += part.rows;
  }
  kernels::PackActivationsArgs pack = {
      .x = args.x, .norm_weight = args.norm_weight, .epsilon = args.epsilon};
  if (args.packed_x == nullptr) {
    pack.out = {.kind = KindOf(products[0].w),
                .rows = args.x.rows,
                .k = k_,
                .bytes = args.scratch};
  }
  ops.matmul(context,
             {.a = args.packed_x != nullptr ? *args.packed_x : pack.out,
              .w = products[0].w,
              .bias = products[0].bias,
              .y = products[0].y,
              .accumulate = args.accumulate,
              .pack = args.packed_x != nullptr ? nullptr : &pack,
              .more = absl::MakeConstSpan(products).subspan(
                  1, run.last - run.first - 1),
              .silu_mul = sides == 2,
              .packed_y = args.packed_y});
}

void Linear::Apply(const kernels::OpContext& context,
                   const kernels::OpTable& ops, const Args& args) const {
  const bool paired = row_order_ == RowOrder::kPairedPanels;
  SLUICE_CHECK(args.packed_x != nullptr || args.x.cols == k_);
  SLUICE_CHECK(args.y.cols == (paired ? n_ / 2 : n_));
  SLUICE_CHECK(paired || args.packed_y == nullptr);
  Run run;
  while (run.first < parts_.size()) {
    const kernels::ActivationKind kind = KindOf(parts_[run.first].packed);
    int64_t columns = 0;
    for (run.last = run.first; run.last < parts_.size(); ++run.last) {
      if (KindOf(parts_[run.last].packed) != kind) break;
      columns += parts_[run.last].rows;
    }
    Multiply(context, ops, args, run);
    run.first = run.last;
    run.column += columns;
  }
}

const kernels::PackedMatrix& Linear::matrix() const {
  SLUICE_CHECK(parts_.size() == 1 && parts_[0].sources.size() == 1);
  return parts_[0].packed;
}

}  // namespace sluice::worker
