#ifndef KERNELS_CPU_ELEMENTWISE_LANES_H_
#define KERNELS_CPU_ELEMENTWISE_LANES_H_

#include "base/check.h"
#include "kernels/cpu/work_split.h"
#include "kernels/elementwise.h"

// SiLU-times-up and add over 16 lanes.

namespace sluice::kernels {

template <typename Lanes>
typename Lanes::F SiluMulOf(typename Lanes::F gate, typename Lanes::F up) {
  using F = typename Lanes::F;
  const F one = Lanes::Set(1.0f);
  const F e = Lanes::Exp(Lanes::NegativeAbs(gate));
  const F sum = Lanes::Add(one, e);
  const F sigmoid = Lanes::Div(Lanes::WhereNotNegative(gate, one, e), sum);
  return Lanes::Mul(Lanes::Mul(gate, sigmoid), up);
}

template <typename Lanes>
void SiluMulRow(const float* gate, const float* up, int64_t n, float* y) {
  int64_t d = 0;
  for (; d + 16 <= n; d += 16) {
    Lanes::Store(y + d,
                 SiluMulOf<Lanes>(Lanes::Load(gate + d), Lanes::Load(up + d)));
  }
  if (d < n) {
    Lanes::StoreFirst(y + d,
                      SiluMulOf<Lanes>(Lanes::LoadFirst(gate + d, n - d),
                                       Lanes::LoadFirst(up + d, n - d)),
                      n - d);
  }
}

template <typename Lanes>
void SiluMulWithLanes(const OpContext& context, const SiluMulArgs& args) {
  const int64_t n = args.y.cols;
  SLUICE_CHECK(args.gate.rows == args.y.rows && args.gate.cols == n);
  SLUICE_CHECK(args.up.rows == args.y.rows && args.up.cols == n);
  SplitRows(context, args.y.rows, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      SiluMulRow<Lanes>(args.gate.Row(t), args.up.Row(t), n, args.y.Row(t));
    }
  });
}

template <typename Lanes>
void AddWithLanes(const OpContext& context, const AddArgs& args) {
  const int64_t n = args.y.cols;
  SLUICE_CHECK(args.a.rows == args.y.rows && args.a.cols == n);
  SLUICE_CHECK(args.b.rows == args.y.rows && args.b.cols == n);
  SplitRows(context, args.y.rows, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* a = args.a.Row(t);
      const float* b = args.b.Row(t);
      float* y = args.y.Row(t);
      int64_t d = 0;
      for (; d + 16 <= n; d += 16) {
        Lanes::Store(y + d, Lanes::Add(Lanes::Load(a + d), Lanes::Load(b + d)));
      }
      for (; d < n; ++d) y[d] = a[d] + b[d];
    }
  });
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ELEMENTWISE_LANES_H_
