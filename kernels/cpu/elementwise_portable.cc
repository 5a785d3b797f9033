#include "base/check.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/row_math.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {

void SiluMulPortable(const OpContext& context, const SiluMulArgs& args) {
  const int64_t n = args.y.cols;
  SLUICE_CHECK(args.gate.rows == args.y.rows && args.gate.cols == n);
  SLUICE_CHECK(args.up.rows == args.y.rows && args.up.cols == n);
  SplitRows(context, args.y.rows, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kRowMathPortable.silu_mul(args.gate.Row(t), args.up.Row(t), n,
                                args.y.Row(t));
    }
  });
}

void AddPortable(const OpContext& context, const AddArgs& args) {
  const int64_t n = args.y.cols;
  SLUICE_CHECK(args.a.rows == args.y.rows && args.a.cols == n);
  SLUICE_CHECK(args.b.rows == args.y.rows && args.b.cols == n);
  SplitRows(context, args.y.rows, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* a = args.a.Row(t);
      const float* b = args.b.Row(t);
      float* y = args.y.Row(t);
      for (int64_t d = 0; d < n; ++d) y[d] = a[d] + b[d];
    }
  });
}

}  // namespace sluice::kernels
