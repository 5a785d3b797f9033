#ifndef KERNELS_CPU_ATTENTION_LANES_H_
#define KERNELS_CPU_ATTENTION_LANES_H_

#include <algorithm>
#include <limits>

#include "kernels/cpu/attention_walk.h"
#include "kernels/cpu/exp.h"

// Attention's arithmetic over 16 lanes: scores with a key per lane, products
// with V with a dimension per lane, so that no sum crosses lanes but R16.
// kRows x kVectors accumulators of each of the two chains stay in registers.

namespace sluice::kernels {

// The products of one group size of rows. Loops are fully unrolled: GCC spills
// arrays of accumulators otherwise. kAhead: fetch the next tile meanwhile; one
// group of rows of a tile does.
template <typename Lanes, int kRows, int kVectors, bool kAhead>
struct AttentionProducts {
  using F = typename Lanes::F;
  using Pair = typename Lanes::Pair;

  struct Sums {
    F x[kRows][kVectors];
  };

  [[gnu::always_inline]] static void Clear(Sums* sums) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sums->x[i][j] = Lanes::Zero();
    }
  }

  // c = c + (even + odd)
  [[gnu::always_inline]] static void AddChains(const Sums& even,
                                               const Sums& odd, Sums* c) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        c->x[i][j] =
            Lanes::Add(c->x[i][j], Lanes::Add(even.x[i][j], odd.x[i][j]));
      }
    }
  }

  // One step of both chains: row i has the scalars a[i * stride], a[.. + 1],
  // vector j the words at w[j] + offset. Fetches as much at ahead[j].
  template <bool kHalfVector = false>
  [[gnu::always_inline]] static void Step(const float* a, int64_t stride,
                                          const uint16_t* const* w,
                                          const uint16_t* const* ahead,
                                          int64_t offset, Sums* even,
                                          Sums* odd) {
    Pair pair[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      if (kAhead) __builtin_prefetch(ahead[j] + offset);
      pair[j] = kHalfVector ? Lanes::LoadHalfPairs(w[j] + offset)
                            : Lanes::LoadPairs(w[j] + offset);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const F a_even = Lanes::Set(a[i * stride]);
      const F a_odd = Lanes::Set(a[i * stride + 1]);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        even->x[i][j] = Lanes::Fma(a_even, pair[j].even, even->x[i][j]);
        odd->x[i][j] = Lanes::Fma(a_odd, pair[j].odd, odd->x[i][j]);
      }
    }
  }

  // Scores of kRows rows against kVectors groups of 16 keys, order t32.
  static void Scores(const AttentionPlan& plan, const KeyTile& tile,
                     int64_t group, const float* q, float* scores) {
    const uint16_t* const* k = tile.k + group;
    const uint16_t* const* ahead = tile.k_ahead + group;
    Sums c;
    Clear(&c);
    const int64_t dim = plan.head_dim;
    int64_t d = 0;
    for (; d + 32 <= dim; d += 32) {
      Sums even;
      Sums odd;
      Clear(&even);
      Clear(&odd);
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        Step(q + d + 2 * r, plan.q_stride, k, ahead, d * 16 + r * 32, &even,
             &odd);
      }
      AddChains(even, odd, &c);
    }
    if (d < dim) {
      Sums even;
      Sums odd;
      Clear(&even);
      Clear(&odd);
      for (; d < dim; d += 2) {
        Step(q + d, plan.q_stride, k, ahead, d * 16, &even, &odd);
      }
      AddChains(even, odd, &c);
    }
    const F scale = Lanes::Set(plan.args->scale);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        Lanes::Store(scores + i * kTileKeys + j * 16,
                     Lanes::Mul(scale, c.x[i][j]));
      }
    }
  }

  // partial = fma(partial, r, t32(p, v)) for kVectors * 16 dimensions from
  // `d` on; `rescale` has a row's r. A half vector has 8 dimensions.
  template <bool kHalfVector>
  static void Weigh(const AttentionPlan& plan, const KeyTile& tile, int64_t d,
                    const float* p, const float* rescale, float* partial) {
    Sums c;
    Clear(&c);
    const int64_t dim = plan.head_dim;
    for (int64_t group = 0; group * 16 < tile.keys; group += 2) {
      Sums even;
      Sums odd;
      Clear(&even);
      Clear(&odd);
      for (int64_t g = group; g < group + 2 && g * 16 < tile.keys; ++g) {
        const uint16_t* v[kVectors];
        const uint16_t* ahead[kVectors];
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) {
          v[j] = tile.v[g] + (d + j * 16) * 2;
          ahead[j] = tile.v_ahead[g] + (d + j * 16) * 2;
        }
        const float* weights = p + g * 16;
#pragma GCC unroll 8
        for (int pair = 0; pair < 8; ++pair) {
          Step<kHalfVector>(weights + 2 * pair, kTileKeys, v, ahead,
                            pair * 2 * dim, &even, &odd);
        }
      }
      AddChains(even, odd, &c);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const F r = Lanes::Set(rescale[i]);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        float* at = partial + i * plan.partial_stride + d + j * 16;
        Lanes::Store(at, Lanes::Fma(Lanes::Load(at), r, c.x[i][j]));
      }
    }
  }

  static void WeighAll(const AttentionPlan& plan, const KeyTile& tile,
                       const float* p, const float* rescale, float* partial) {
    using One = AttentionProducts<Lanes, kRows, 1, kAhead>;
    const int64_t dim = plan.head_dim;
    int64_t d = 0;
    for (; d + 16 * kVectors <= dim; d += 16 * kVectors) {
      Weigh<false>(plan, tile, d, p, rescale, partial);
    }
    for (; d + 16 <= dim; d += 16) {
      One::template Weigh<false>(plan, tile, d, p, rescale, partial);
    }
    if (d < dim) One::template Weigh<true>(plan, tile, d, p, rescale, partial);
  }

  // f32 cache: one chain per output over head_dim (CPU numerics section 6).
  static void ScoresF32(const AttentionPlan& plan, const float* k,
                        const float* q, float* scores) {
    Sums c;
    Clear(&c);
    const int64_t dim = plan.head_dim;
    for (int64_t d = 0; d < dim; ++d) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        const F keys = Lanes::Load(k + (j * dim + d) * 16);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          c.x[i][j] =
              Lanes::Fma(Lanes::Set(q[i * plan.q_stride + d]), keys, c.x[i][j]);
        }
      }
    }
    const F scale = Lanes::Set(plan.args->scale);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        Lanes::Store(scores + i * kTileKeys + j * 16,
                     Lanes::Mul(scale, c.x[i][j]));
      }
    }
  }

  static void WeighF32(const AttentionPlan& plan, const KeyTile& tile,
                       const float* p, const float* rescale, float* partial) {
    static_assert(kVectors == 1);
    const int64_t dim = plan.head_dim;
    for (int64_t d = 0; d < dim; d += 16) {
      const int64_t n = dim - d < 16 ? dim - d : 16;
      Sums c;
      Clear(&c);
      for (int64_t key = 0; key < tile.keys; ++key) {
        const F v = Lanes::LoadFirst(tile.v_f32 + key * dim + d, n);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          c.x[i][0] =
              Lanes::Fma(Lanes::Set(p[i * kTileKeys + key]), v, c.x[i][0]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        float* at = partial + i * plan.partial_stride + d;
        Lanes::Store(
            at, Lanes::Fma(Lanes::Load(at), Lanes::Set(rescale[i]), c.x[i][0]));
      }
    }
  }
};

// Path of AttentionWalk. Tiling says how many rows and vectors fit the level's
// registers: kManyRows x kManyVectors, and kOneRowVectors for a single row.
template <typename Lanes, typename Tiling>
struct AttentionLanesPath {
  using F = typename Lanes::F;

  static void LoadQueries(const AttentionPlan& plan, const AttentionItem& item,
                          float* q) {
    const AttentionArgs& args = *plan.args;
    const bool round = args.kv.dtype == KvDtype::kBF16;
    const int64_t dim = plan.head_dim;
    for (int64_t row = item.row_begin; row < item.row_end; ++row) {
      const int64_t head = item.kv_head * plan.group + row % plan.group;
      const float* x =
          args.q.Row(args.q_off[item.sequence] + row / plan.group) + head * dim;
      for (int64_t d = 0; d < dim; d += 16) {
        const F v = Lanes::LoadFirst(x + d, dim - d < 16 ? dim - d : 16);
        Lanes::Store(q + d, round ? Lanes::RoundToBf16(v) : v);
      }
      q += plan.q_stride;
    }
  }

  static void Tile(const AttentionPlan& plan, const KeyTile& tile,
                   const TileRows& rows) {
    int64_t row = rows.first;
    // The first group of rows fetches the next tile, if there are several.
    for (; row + Tiling::kManyRows <= rows.end; row += Tiling::kManyRows) {
      if (row == rows.first) {
        TileOfRows<Tiling::kManyRows, Tiling::kManyVectors, true>(plan, tile,
                                                                  rows, row);
      } else {
        TileOfRows<Tiling::kManyRows, Tiling::kManyVectors, false>(plan, tile,
                                                                   rows, row);
      }
    }
    const int64_t left = rows.end - row;
    if constexpr (Tiling::kManyRows >= 4) {
      if (left == 3) {
        TileOfRows<3, Tiling::kManyVectors, true>(plan, tile, rows, row);
      }
      if (left == 2) {
        TileOfRows<2, Tiling::kManyVectors, true>(plan, tile, rows, row);
      }
    }
    if (left == 1) {
      TileOfRows<1, Tiling::kOneRowVectors, true>(plan, tile, rows, row);
    }
  }

  static void Merge(const AttentionPlan& plan, float* partial, int64_t segments,
                    int64_t step, float* out) {
    constexpr float kNothing = -std::numeric_limits<float>::infinity();
    float max = kNothing;
    for (int64_t g = 0; g < segments; ++g) {
      const float m = partial[g * step + plan.m_at];
      max = m > max ? m : max;
    }
    float sum = 0;
    for (int64_t g = 0; g < segments; ++g) {
      float* part = partial + g * step + plan.m_at;
      if (part[0] == kNothing) continue;
      part[2] = ExpNonPositive(part[0] - max);
      sum = __builtin_fmaf(part[1], part[2], sum);
    }
    for (int64_t d = 0; d < plan.head_dim; d += 16) {
      F o = Lanes::Zero();
      for (int64_t g = 0; g < segments; ++g) {
        const float* part = partial + g * step;
        if (part[plan.m_at] == kNothing) continue;
        o = Lanes::Fma(Lanes::Load(part + d), Lanes::Set(part[plan.m_at + 2]),
                       o);
      }
      if (max != kNothing) {
        o = Lanes::Add(Lanes::Div(o, Lanes::Set(sum)), Lanes::Zero());
      }
      const int64_t n = plan.head_dim - d;
      Lanes::StoreFirst(out + d, o, n < 16 ? n : 16);
    }
  }

 private:
  template <int kRows, int kVectors, bool kAhead>
  static void TileOfRows(const AttentionPlan& plan, const KeyTile& tile,
                         const TileRows& rows, int64_t row) {
    const int64_t i = row - rows.first;
    const float* q = rows.q + i * plan.q_stride;
    float* scores = rows.scores + i * kTileKeys;
    float* partial = rows.partial + i * plan.partial_stride;
    ScoresOfRows<kRows, kVectors, kAhead>(plan, tile, q, scores);
    float rescale[kRows];
    for (int j = 0; j < kRows; ++j) {
      rescale[j] =
          Softmax(plan, VisibleKeys(plan, *rows.item, tile, row + j),
                  scores + j * kTileKeys, partial + j * plan.partial_stride);
    }
    if (plan.args->kv.dtype == KvDtype::kF32) {
      AttentionProducts<Lanes, kRows, 1, false>::WeighF32(plan, tile, scores,
                                                          rescale, partial);
    } else {
      AttentionProducts<Lanes, kRows, kVectors, kAhead>::WeighAll(
          plan, tile, scores, rescale, partial);
    }
  }

  template <int kRows, int kVectors, bool kAhead>
  static void ScoresOfRows(const AttentionPlan& plan, const KeyTile& tile,
                           const float* q, float* scores) {
    using Many = AttentionProducts<Lanes, kRows, kVectors, kAhead>;
    using One = AttentionProducts<Lanes, kRows, 1, kAhead>;
    const int64_t groups = (tile.keys + 15) / 16;
    const int64_t group_f32 = 16 * plan.head_dim;
    const bool f32 = plan.args->kv.dtype == KvDtype::kF32;
    int64_t g = 0;
    for (; g + kVectors <= groups; g += kVectors) {
      if (f32) {
        Many::ScoresF32(plan, tile.k_f32 + g * group_f32, q, scores + g * 16);
      } else {
        Many::Scores(plan, tile, g, q, scores + g * 16);
      }
    }
    for (; g < groups; ++g) {
      if (f32) {
        One::ScoresF32(plan, tile.k_f32 + g * group_f32, q, scores + g * 16);
      } else {
        One::Scores(plan, tile, g, q, scores + g * 16);
      }
    }
  }

  // Scores to weights for one row; updates m and l and returns the factor for
  // what was summed before.
  static float Softmax(const AttentionPlan& plan, int64_t visible,
                       float* scores, float* partial) {
    const F nothing = Lanes::Set(-std::numeric_limits<float>::infinity());
    F s[4];
    F top = nothing;
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const int64_t n = visible - g * 16;
      s[g] = n >= 16 ? Lanes::Load(scores + g * 16)
                     : (n > 0 ? Lanes::FirstElse(Lanes::Load(scores + g * 16),
                                                 nothing, n)
                              : nothing);
      top = Lanes::Max(top, s[g]);
    }
    const float tile_max = Lanes::MaxLane(top);
    float& m = partial[plan.m_at];
    float& l = partial[plan.m_at + 1];
    const float max = m < tile_max ? tile_max : m;
    const F max_lanes = Lanes::Set(max);
    F sum = Lanes::Zero();
    const bool round = plan.args->kv.dtype == KvDtype::kBF16;
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const F p = Lanes::Exp(Lanes::Sub(s[g], max_lanes));
      sum = Lanes::Add(sum, p);
      Lanes::Store(scores + g * 16, round ? Lanes::RoundToBf16(p) : p);
    }
    const float r = m == -std::numeric_limits<float>::infinity()
                        ? 0.0f
                        : ExpNonPositive(m - max);
    l = __builtin_fmaf(l, r, Lanes::Fold(sum));
    m = max;
    return r;
  }
};

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ATTENTION_LANES_H_
