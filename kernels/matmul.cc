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
    return kind == ActivationKind::kBF16 ? values + groups * 64 : values;
  }
  return AlignTo64(groups * kGroupElements) + 3 * AlignTo64(groups * 4);
}

void RunPackActivations(const OpContext& context,
                        const PackActivationsArgs& args,
                        const PackGroupFns& fns) {
  const Activations& out = args.out;
  SLUICE_CHECK(args.x.rows == out.rows && args.x.cols == out.k);
  if (out.rows == 0 || out.k == 0) return;
  const bool super = out.kind == ActivationKind::kInt8Group256;
  const int64_t elements = super ? kSuperElements : kGroupElements;
  SLUICE_CHECK(!super || out.k % kSuperElements == 0);
  const int64_t groups = (out.k + elements - 1) / elements;
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
            .x = x + g * elements,
            .count = std::min(elements, out.k - g * elements),
            .at = g * elements / kGroupElements * block.height +
                  row % kBlockRows};
        if (group.count == elements) {
          full(group, block);
        } else {
          PackGroupPortable(out.kind, group, block);
        }
      }
    }
  };
  const int64_t work = out.rows * groups;
  const int64_t inline_work = kInlineGroups * kGroupElements / elements;
  // Cheaper than waking the pool. MXCSR does not matter to these kernels: no
  // operand or result that decides a bit is subnormal.
  if (work <= inline_work) return pack({0, work});
  const int threads = context.pool->num_threads();
  context.pool->Run(
      [&](int thread) { pack(PartOf(work, 1, thread, threads)); });
}

}  // namespace sluice::kernels
