#ifndef KERNELS_CPU_ROPE_LANES_H_
#define KERNELS_CPU_ROPE_LANES_H_

#include "kernels/rope.h"

// RoPE over 16 lanes.

namespace sluice::kernels {

// Pairs (i, i + half).
template <typename Lanes>
void RotateHalves(const float* cosine, const float* sine, int64_t half,
                  float* x) {
  using F = typename Lanes::F;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    const F c = Lanes::LoadFirst(cosine + i, n);
    const F s = Lanes::LoadFirst(sine + i, n);
    const F a = Lanes::LoadFirst(x + i, n);
    const F b = Lanes::LoadFirst(x + half + i, n);
    const F first = Lanes::Sub(Lanes::Mul(a, c), Lanes::Mul(b, s));
    const F second = Lanes::Add(Lanes::Mul(a, s), Lanes::Mul(b, c));
    Lanes::StoreFirst(x + i, first, n);
    Lanes::StoreFirst(x + half + i, second, n);
  }
}

// Pairs (2i, 2i + 1).
template <typename Lanes>
void RotateInterleaved(const float* cosine, const float* sine, int64_t half,
                       float* x) {
  using F = typename Lanes::F;
  int64_t i = 0;
  for (; i + 8 <= half; i += 8) {
    const F v = Lanes::Load(x + 2 * i);
    // Even lanes x c + (-(y s)) = x c - y s, odd lanes y c + x s.
    const F products = Lanes::NegateEven(
        Lanes::Mul(Lanes::SwapNeighbours(v), Lanes::LoadTwice(sine + i)));
    Lanes::Store(
        x + 2 * i,
        Lanes::Add(Lanes::Mul(v, Lanes::LoadTwice(cosine + i)), products));
  }
  for (; i < half; ++i) {
    const float ac = x[2 * i] * cosine[i];
    const float bs = x[2 * i + 1] * sine[i];
    const float as = x[2 * i] * sine[i];
    const float bc = x[2 * i + 1] * cosine[i];
    x[2 * i] = ac - bs;
    x[2 * i + 1] = as + bc;
  }
}

// Every head of row `t`.
template <typename Lanes>
void RotateRow(const RopeArgs& args, int64_t t) {
  const int64_t half = args.table.rot / 2;
  const float* cosine = args.table.cos + args.positions[t] * half;
  const float* sine = args.table.sin + args.positions[t] * half;
  for (int64_t h = 0; h < args.heads; ++h) {
    float* x = args.x.Row(t) + h * args.head_dim;
    if (args.pairs == RopePairs::kHalf) {
      RotateHalves<Lanes>(cosine, sine, half, x);
    } else {
      RotateInterleaved<Lanes>(cosine, sine, half, x);
    }
  }
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ROPE_LANES_H_
