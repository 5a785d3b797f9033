#include "worker/model/linear.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::worker {

using kernels::WeightFormat;

namespace {

constexpr int64_t kPieceBytes = 32 << 20;  // of stored rows, packed at a time

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

absl::Status Linear::PackPart(const kernels::OpContext& context,
                              const WeightFile& weights, const Part& part,
                              uint8_t* packed_bytes) const {
  std::vector<const StoredTensor*> tensors;
  for (const LinearSource& source : part.sources) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor,
                     weights.Want(source.weight, {source.rows, k_}));
    tensors.push_back(tensor);
  }
  const int64_t row_bytes = kernels::StoredRowBytes(part.stored, k_);
  const int64_t piece_rows =
      std::max<int64_t>(kPieceBytes / row_bytes / 32, 1) * 32;
  for (int64_t begin = 0; begin < part.rows; begin += piece_rows) {
    const int64_t end = std::min(begin + piece_rows, part.rows);
    std::vector<kernels::StoredRows> rows;
    std::vector<const MappedFile*> files;  // of `rows`; null: not of a file
    int64_t first = 0;  // of the tensor, in the concatenation
    for (size_t i = 0; i < tensors.size(); ++i) {
      const int64_t from = std::max(begin, first);
      const int64_t to = std::min(end, first + part.sources[i].rows);
      if (from < to) {
        rows.push_back({.bytes = tensors[i]->bytes + (from - first) * row_bytes,
                        .rows = to - from});
        files.push_back(tensors[i]->file.get());
      }
      first += part.sources[i].rows;
    }
    kernels::PackMatrix(
        context,
        {.format = part.stored,
         .k = k_,
         .parts = rows,
         .widen_to_f32 = widen_to_f32_,
         .packed_bytes = packed_bytes +
                         kernels::PackedBytes(part.packed.format, begin, k_)});
    for (size_t i = 0; i < rows.size(); ++i) {
      if (files[i] != nullptr) {
        files[i]->Drop(rows[i].bytes,
                       static_cast<uint64_t>(rows[i].rows * row_bytes));
      }
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
  std::string text;
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

void Linear::Apply(const kernels::OpContext& context,
                   const kernels::OpTable& ops, const Args& args) const {
  SLUICE_CHECK(args.x.cols == k_ && args.y.cols == n_);
  std::optional<kernels::ActivationKind> packed_as;
  kernels::Activations a;
  int64_t column = 0;
  for (const Part& part : parts_) {
    const kernels::ActivationKind kind =
        kernels::ActivationKindFor(part.packed.format);
    if (packed_as != kind) {
      a = {.kind = kind, .rows = args.x.rows, .k = k_, .bytes = args.scratch};
      ops.pack_activations(context, {.x = args.x, .out = a});
      packed_as = kind;
    }
    ops.matmul(context, {.a = a,
                         .w = part.packed,
                         .bias = part.bias.empty() ? nullptr : part.bias.data(),
                         .y = {.data = args.y.data + column,
                               .rows = args.y.rows,
                               .cols = part.rows,
                               .stride = args.y.stride},
                         .accumulate = args.accumulate});
    column += part.rows;
  }
}

const kernels::PackedMatrix& Linear::matrix() const {
  SLUICE_CHECK(parts_.size() == 1 && parts_[0].sources.size() == 1);
  return parts_[0].packed;
}

}  // namespace sluice::worker
