#include "kernels/matmul.h"

#include "base/check.h"
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/thread_pool.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kInlineGroups = 128;

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
      return ActivationKind::kInt8Group32;
  }
  return ActivationKind::kF32;
}

int64_t ActivationBytes(ActivationKind kind, int64_t rows, int64_t k) {
  const int64_t groups = rows * NumGroups(k);
  if (kind != ActivationKind::kInt8Group32) {
    return AlignTo64(groups * kGroupElements * 4);
  }
  return AlignTo64(groups * kGroupElements) + 3 * AlignTo64(groups * 4);
}

void RunPackActivations(const OpContext& context,
                        const PackActivationsArgs& args,
                        const PackGroupFns& fns) {
  const Activations& out = args.out;
  SLUICE_CHECK(args.x.rows == out.rows && args.x.cols == out.k);
  if (out.rows == 0 || out.k == 0) return;
  const int64_t groups = NumGroups(out.k);
  const PackGroupFn full = fns.full[static_cast<int>(out.kind)];
  // Units of work are row groups in memory order: a decode step's few rows
  // split as well as a prefill's many.
  const auto pack = [&](WorkRange range) {
    int64_t row = range.begin / groups;
    int64_t g = range.begin % groups;
    for (int64_t i = range.begin; i < range.end; ++row, g = 0) {
      const ActivationBlock block = BlockAt(out, row / kBlockRows);
      const float* x = args.x.Row(row);
      for (; g < groups && i < range.end; ++g, ++i) {
        const PackGroup group = {
            .x = x + g * kGroupElements,
            .count = std::min(kGroupElements, out.k - g * kGroupElements),
            .at = g * block.height + row % kBlockRows};
        if (group.count == kGroupElements) {
          full(group, block);
        } else {
          PackGroupPortable(out.kind, group, block);
        }
      }
    }
  };
  const int64_t work = out.rows * groups;
  // Cheaper than waking the pool. MXCSR does not matter to these kernels: no
  // operand or result that decides a bit is subnormal.
  if (work <= kInlineGroups) return pack({0, work});
  const int threads = context.pool->num_threads();
  context.pool->Run(
      [&](int thread) { pack(PartOf(work, 1, thread, threads)); });
}

}  // namespace sluice::kernels
