#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kSumBlock = 128;

void NormRow(const RmsNormArgs& args, int64_t t) {
  const float* x = args.x.Row(t);
  float* y = args.y.Row(t);
  const int64_t n = args.x.cols;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = std::min(begin + kSumBlock, n);
    float lanes[16] = {};
    for (int64_t d = begin; d < end; ++d) {
      float& lane = lanes[(d - begin) % 16];
      lane = __builtin_fmaf(x[d], x[d], lane);
    }
    sum = sum + static_cast<double>(FoldLanes(lanes));
  }
  const float mean = static_cast<float>(sum / static_cast<double>(n));
  const float r = 1.0f / std::sqrt(mean + args.epsilon);
  for (int64_t d = 0; d < n; ++d) y[d] = (x[d] * r) * args.weight[d];
}

}  // namespace

void RmsNormPortable(const OpContext& context, const RmsNormArgs& args) {
  SLUICE_CHECK(args.x.rows == args.y.rows && args.x.cols == args.y.cols);
  SLUICE_CHECK(args.x.rows == 0 || args.x.cols > 0);
  SplitRows(context, args.x.rows, args.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) NormRow(args, t);
  });
}

}  // namespace sluice::kernels
