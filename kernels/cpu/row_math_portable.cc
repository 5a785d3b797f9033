#include <algorithm>
#include <cmath>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/row_math.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kSumBlock = 128;

float NormFactor(const float* x, int64_t n, float epsilon) {
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
  return 1.0f / std::sqrt(mean + epsilon);
}

void Scale(const ScaleArgs& args) {
  for (int64_t d = 0; d < args.n; ++d) {
    args.y[d] = (args.x[d] * args.r) * args.weight[d];
  }
}

void SiluMul(const float* gate, const float* up, int64_t n, float* y) {
  for (int64_t d = 0; d < n; ++d) {
    const float silu = gate[d] * Sigmoid(gate[d]);
    y[d] = silu * up[d];
  }
}

}  // namespace

const RowMath kRowMathPortable = {NormFactor, Scale, SiluMul};

}  // namespace sluice::kernels
