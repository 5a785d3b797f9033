#ifndef KERNELS_CPU_RMS_NORM_LANES_H_
#define KERNELS_CPU_RMS_NORM_LANES_H_

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/row_math.h"
#include "kernels/cpu/work_split.h"
#include "kernels/rms_norm.h"

// RMS norm over 16 lanes, for each level that has them.

namespace sluice::kernels {

// The sum of squares of up to 128 values.
template <typename Lanes>
float SquareSumOfBlock(const float* x, int64_t n) {
  typename Lanes::F sum = Lanes::Zero();
  int64_t d = 0;
  for (; d + 16 <= n; d += 16) {
    const typename Lanes::F v = Lanes::Load(x + d);
    sum = Lanes::Fma(v, v, sum);
  }
  if (d < n) {
    const typename Lanes::F v = Lanes::LoadFirst(x + d, n - d);
    sum = Lanes::Fma(v, v, sum);
  }
  return Lanes::Fold(sum);
}

template <typename Lanes>
float NormFactor(const float* x, int64_t n, float epsilon) {
  double sum = 0;
  for (int64_t d = 0; d < n; d += 128) {
    sum = sum + static_cast<double>(SquareSumOfBlock<Lanes>(
                    x + d, std::min<int64_t>(128, n - d)));
  }
  const float mean = static_cast<float>(sum / static_cast<double>(n));
  const __m128 shifted = _mm_set_ss(mean + epsilon);
  return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(shifted));
}

template <typename Lanes>
void ScaleRow(const ScaleArgs& args) {
  using F = typename Lanes::F;
  const float* x = args.x;
  const F r = Lanes::Set(args.r);
  int64_t d = 0;
  for (; d + 16 <= args.n; d += 16) {
    Lanes::Store(args.y + d, Lanes::Mul(Lanes::Mul(Lanes::Load(x + d), r),
                                        Lanes::Load(args.weight + d)));
  }
  if (d < args.n) {
    const int64_t left = args.n - d;
    const F v = Lanes::Mul(Lanes::LoadFirst(x + d, left), r);
    Lanes::StoreFirst(args.y + d,
                      Lanes::Mul(v, Lanes::LoadFirst(args.weight + d, left)),
                      left);
  }
}

template <typename Lanes>
void RmsNormWithLanes(const OpContext& context, const RmsNormArgs& args) {
  SLUICE_CHECK(args.x.rows == args.y.rows && args.x.cols == args.y.cols);
  SLUICE_CHECK(args.x.rows == 0 || args.x.cols > 0);
  SplitRows(context, args.x.rows, args.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = args.x.Row(t);
      const float r = NormFactor<Lanes>(x, args.x.cols, args.epsilon);
      ScaleRow<Lanes>({.x = x,
                       .weight = args.weight,
                       .r = r,
                       .n = args.x.cols,
                       .y = args.y.Row(t)});
    }
  });
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_RMS_NORM_LANES_H_
