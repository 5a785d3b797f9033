#include "base/check.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/row_math.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {

void RmsNormPortable(const OpContext& context, const RmsNormArgs& args) {
  SLUICE_CHECK(args.x.rows == args.y.rows && args.x.cols == args.y.cols);
  SLUICE_CHECK(args.x.rows == 0 || args.x.cols > 0);
  const int64_t n = args.x.cols;
  SplitRows(context, args.x.rows, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = args.x.Row(t);
      const float r = kRowMathPortable.norm_factor(x, n, args.epsilon);
      kRowMathPortable.scale(
          {.x = x, .weight = args.weight, .r = r, .n = n, .y = args.y.Row(t)});
    }
  });
}

}  // namespace sluice::kernels
