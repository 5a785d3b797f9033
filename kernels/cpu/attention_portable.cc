#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention_walk.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/quant/bf16.h"

namespace sluice::kernels {
namespace {

// The definition of attention's arithmetic: CPU numerics section 8.
struct PortablePath {
  static void LoadQueries(const AttentionPlan& plan, const AttentionItem& item,
                          float* q) {
    const AttentionArgs& args = *plan.args;
    const bool round = args.kv.dtype == KvDtype::kBF16;
    for (int64_t row = item.row_begin; row < item.row_end; ++row) {
      const int64_t head = item.kv_head * plan.group + row % plan.group;
      const float* x =
          args.q.Row(args.q_off[item.sequence] + row / plan.group) +
          head * plan.head_dim;
      for (int64_t d = 0; d < plan.head_dim; ++d) {
        q[d] = round ? Bf16ToF32(F32ToBf16(x[d])) : x[d];
      }
      q += plan.q_stride;
    }
  }

  static void Tile(const AttentionPlan& plan, const KeyTile& tile,
                   const TileRows& rows) {
    for (int64_t row = rows.first; row < rows.end; ++row) {
      const int64_t i = row - rows.first;
      const int64_t visible = VisibleKeys(plan, *rows.item, tile, row);
      TileRow(plan, tile, visible, rows.q + i * plan.q_stride,
              rows.partial + i * plan.partial_stride);
    }
  }

  // `partial` of segment 0; each further segment is `step` f32 on.
  static void Merge(const AttentionPlan& plan, float* partial, int64_t segments,
                    int64_t step, float* out) {
    float max = -INFINITY;
    for (int64_t g = 0; g < segments; ++g) {
      max = std::max(max, partial[g * step + plan.m_at]);
    }
    float sum = 0;
    std::fill(out, out + plan.head_dim, 0.0f);
    for (int64_t g = 0; g < segments; ++g) {
      const float* part = partial + g * step;
      if (part[plan.m_at] == -INFINITY) continue;
      const float w = ExpNonPositive(part[plan.m_at] - max);
      sum = __builtin_fmaf(part[plan.m_at + 1], w, sum);
      for (int64_t d = 0; d < plan.head_dim; ++d) {
        out[d] = __builtin_fmaf(part[d], w, out[d]);
      }
    }
    if (max == -INFINITY) return;
    for (int64_t d = 0; d < plan.head_dim; ++d) out[d] = out[d] / sum + 0.0f;
  }

 private:
  static void TileRow(const AttentionPlan& plan, const KeyTile& tile,
                      int64_t visible, const float* q, float* partial) {
    float p[kTileKeys] = {};
    float& m = partial[plan.m_at];
    float& l = partial[plan.m_at + 1];
    const bool bf16 = plan.args->kv.dtype == KvDtype::kBF16;
    float max = m;
    for (int64_t key = 0; key < visible; ++key) {
      const float dot =
          bf16 ? DotTiles(plan, tile, key, q) : DotF32(plan, tile, key, q);
      p[key] = plan.args->scale * dot;
      max = std::max(max, p[key]);
    }
    for (int64_t key = 0; key < visible; ++key) {
      p[key] = ExpNonPositive(p[key] - max);
    }
    const float r = m == -INFINITY ? 0.0f : ExpNonPositive(m - max);
    float lanes[16] = {};
    for (int64_t key = 0; key < kTileKeys; ++key) {
      lanes[key % 16] = lanes[key % 16] + p[key];
    }
    l = __builtin_fmaf(l, r, FoldLanes(lanes));
    m = max;
    if (bf16) {
      for (float& x : p) x = Bf16ToF32(F32ToBf16(x));
    }
    for (int64_t d = 0; d < plan.head_dim; ++d) {
      const float product =
          bf16 ? WeighTiles(plan, tile, p, d) : WeighF32(plan, tile, p, d);
      partial[d] = __builtin_fmaf(partial[d], r, product);
    }
  }

  // q . k in the order t32 (CPU numerics section 5).
  static float DotTiles(const AttentionPlan& plan, const KeyTile& tile,
                        int64_t key, const float* q) {
    const uint16_t* k = tile.k[key / 16] + key % 16 * 2;
    float c = 0;
    for (int64_t begin = 0; begin < plan.head_dim; begin += 32) {
      const int64_t end = std::min(begin + 32, plan.head_dim);
      float even = 0;
      float odd = 0;
      for (int64_t d = begin; d < end; d += 2) {
        even = __builtin_fmaf(q[d], Bf16ToF32(k[d * 16]), even);
        odd = __builtin_fmaf(q[d + 1], Bf16ToF32(k[d * 16 + 1]), odd);
      }
      c = c + (even + odd);
    }
    return c;
  }

  // p . v over the tile's 64 keys in the order t32; v past the end is +0.
  static float WeighTiles(const AttentionPlan& plan, const KeyTile& tile,
                          const float* p, int64_t d) {
    float c = 0;
    for (int64_t begin = 0; begin < kTileKeys; begin += 32) {
      float even = 0;
      float odd = 0;
      for (int64_t key = begin; key < begin + 32; key += 2) {
        const bool inside = key / 16 * 16 < tile.keys;
        const uint16_t* v =
            inside ? tile.v[key / 16] + (key % 16 * plan.head_dim + d * 2)
                   : nullptr;
        const float v_even = inside ? Bf16ToF32(v[0]) : 0;
        const float v_odd = inside ? Bf16ToF32(v[1]) : 0;
        even = __builtin_fmaf(p[key], v_even, even);
        odd = __builtin_fmaf(p[key + 1], v_odd, odd);
      }
      c = c + (even + odd);
    }
    return c;
  }

  static float DotF32(const AttentionPlan& plan, const KeyTile& tile,
                      int64_t key, const float* q) {
    const float* k = tile.k_f32 + key / 16 * 16 * plan.head_dim + key % 16;
    float f = 0;
    for (int64_t d = 0; d < plan.head_dim; ++d) {
      f = __builtin_fmaf(q[d], k[d * 16], f);
    }
    return f;
  }

  static float WeighF32(const AttentionPlan& plan, const KeyTile& tile,
                        const float* p, int64_t d) {
    float f = 0;
    for (int64_t key = 0; key < tile.keys; ++key) {
      f = __builtin_fmaf(p[key], tile.v_f32[key * plan.head_dim + d], f);
    }
    return f;
  }
};

}  // namespace

void AttentionPortable(const OpContext& context, const AttentionArgs& args) {
  AttentionOnPath<PortablePath>(context, args);
}

}  // namespace sluice::kernels
