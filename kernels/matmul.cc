#include "kernels/matmul.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kSmallElements = 4096;
// Of one piece: long against taking it, short against a row block.
constexpr int64_t kPieceElements = 1024;

}  // namespace

ActivationKind ActivationKindFor(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
      return ActivationKind::kF32;
    case WeightFormat::kBF16:
      return ActivationKind::kBF16;
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_0:
    case WeightFormat::kQ5_1:
      return ActivationKind::kInt8Group32;
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
    case WeightFormat::kQ6_K:
      return ActivationKind::kInt8Group256;
  }
  return ActivationKind::kF32;
}

int64_t ActivationBytes(ActivationKind kind, int64_t rows, int64_t k) {
  const int64_t groups = rows * NumGroups(k);
  if (!HasCodes(kind)) {
    const int64_t values = AlignTo64(groups * kGroupElements * 4);
    return kind == ActivationKind::kBF16 ? values + 2 * groups * 64 : values;
  }
  const int64_t codes = AlignTo64(groups * kGroupElements);
  const int64_t tile_rows = kind == ActivationKind::kInt8Group256 ? codes : 0;
  return codes + 3 * AlignTo64(groups * 4) + tile_rows;
}

RowPacker::RowPacker(const PackActivationsArgs& args, const PackFns& fns)
    : args_(args), fns_(fns) {
  const Activations& out = args.out;
  SLUICE_CHECK(args.x.rows == out.rows && args.x.cols == out.k);
  if (out.rows == 0 || out.k == 0) return;
  group_elements_ = ScaledElements(out.kind);
  SLUICE_CHECK(out.kind != ActivationKind::kInt8Group256 ||
               out.k % kSuperElements == 0);
  groups_ = (out.k + group_elements_ - 1) / group_elements_;
  piece_groups_ = std::max<int64_t>(1, kPieceElements / group_elements_);
  if (args.norm_weight != nullptr) {
    piece_groups_ = std::max<int64_t>(1, piece_groups_ / groups_) * groups_;
  }
  pieces_ = (out.rows * groups_ + piece_groups_ - 1) / piece_groups_;
  small_ = pieces_ == 1 || out.rows * out.k <= kSmallElements;
}

void RowPacker::Pack(int64_t piece) const {
  const int64_t begin = piece * piece_groups_;
  const int64_t end = std::min(begin + piece_groups_, args_.out.rows * groups_);
  int64_t g = begin % groups_;
  for (int64_t i = begin; i < end; g = 0) {
    const int64_t count = std::min(groups_ - g, end - i);
    PackRow(i / groups_, g, g + count);
    i += count;
  }
}

void RowPacker::PackAll() const {
  const ComputeFloatMode mode;
  for (int64_t piece = 0; piece < pieces_; ++piece) Pack(piece);
}

// Groups [begin, end) of a row; all of them when it is normalised.
void RowPacker::PackRow(int64_t row, int64_t begin, int64_t end) const {
  const Activations& out = args_.out;
  const ActivationBlock block = BlockAt(out, row / kBlockRows);
  const float* x = args_.x.Row(row);
  const PackGroupFn full = fns_.full[static_cast<int>(out.kind)];
  const bool norm = args_.norm_weight != nullptr;
  const float r = norm ? fns_.math->norm_factor(x, out.k, args_.epsilon) : 0.0f;
  alignas(64) float scaled[kSuperElements];
  const int64_t run = kSuperElements / group_elements_;
  for (int64_t g = begin; g < end;) {
    const int64_t run_end = std::min(end, g + run);
    const int64_t first = g * group_elements_;
    const float* from = x + first;
    if (norm) {
      fns_.math->scale({.x = from,
                        .weight = args_.norm_weight + first,
                        .r = r,
                        .n = std::min(run_end * group_elements_, out.k) - first,
                        .y = scaled});
      from = scaled;
    }
    for (; g < run_end; ++g, from += group_elements_) {
      const PackGroup group = {
          .x = from,
          .count = std::min(group_elements_, out.k - g * group_elements_),
          .at = g * group_elements_ / kGroupElements * block.height +
                row % kBlockRows};
      if (group.count == group_elements_) {
        full(group, block);
      } else {
        PackGroupPortable(out.kind, group, block);
      }
    }
  }
}

void RunPackActivations(const OpContext& context,
                        const PackActivationsArgs& args, const PackFns& fns) {
  const RowPacker packer(args, fns);
  if (packer.small()) return packer.PackAll();
  const int threads = context.pool->num_threads();
  context.pool->Run([&](int thread) {
    const WorkRange mine = PartOf(packer.pieces(), 1, thread, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) packer.Pack(i);
  });
}

void PackColumns(const PackColumnsArgs& args, const PackFns& fns) {
  const ActivationBlock block = BlockAt(args.out, args.block);
  const ActivationKind kind = args.out.kind;
  const int64_t elements = ScaledElements(kind);
  for (int64_t r = 0; r < block.height; ++r) {
    const float* y = args.y.Row(r);
    for (int64_t c = args.begin; c < args.end; c += elements) {
      const PackGroup group = {.x = y + c - args.begin,
                               .count = std::min(elements, args.end - c),
                               .at = c / kGroupElements * block.height + r};
      if (group.count == elements) {
        fns.full[static_cast<int>(kind)](group, block);
      } else {
        PackGroupPortable(kind, group, block);
      }
    }
  }
}

}  // namespace sluice::kernels
