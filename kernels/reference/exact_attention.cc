#include "kernels/reference/exact_attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/work_split.h"
#include "kernels/quant/bf16.h"
#include "kernels/reference/attention.h"

namespace sluice::kernels {
namespace {

using Values = std::vector<float>;

float Bf16(float x) { return Bf16ToF32(F32ToBf16(x)); }

// Order t32 for bf16, one chain for f32 (sections 5 and 6).
float Dot(const Values& a, const Values& b, bool bf16) {
  if (!bf16) {
    float f = 0;
    for (size_t i = 0; i < a.size(); ++i) f = std::fma(a[i], b[i], f);
    return f;
  }
  float c = 0;
  for (size_t begin = 0; begin < a.size(); begin += 32) {
    float chain[2] = {};
    for (size_t i = begin; i < std::min(begin + 32, a.size()); ++i) {
      chain[i % 2] = std::fma(a[i], b[i], chain[i % 2]);
    }
    c = c + (chain[0] + chain[1]);
  }
  return c;
}

struct Part {
  float m = -INFINITY;
  float l = 0;
  Values o;
};

// Keys and values of the sequence as functions of (position, dimension).
struct Row {
  const AttentionArgs* args;
  std::function<float(int comp, int64_t key, int64_t d)> stored;
  int64_t position;
  Values q;
  bool bf16;
};

// 64 keys from `begin` on into `part`.
void AddTile(const Row& row, int64_t begin, Part* part) {
  const int64_t dim = static_cast<int64_t>(row.q.size());
  const int64_t visible = std::min<int64_t>(64, row.position + 1 - begin);
  Values s;
  for (int64_t key = begin; key < begin + visible; ++key) {
    Values k;
    for (int64_t d = 0; d < dim; ++d) k.push_back(row.stored(0, key, d));
    s.push_back(row.args->scale * Dot(row.q, k, row.bf16));
  }
  const float m = std::max(part->m, *std::max_element(s.begin(), s.end()));
  Values p(64, 0.0f);
  float lanes[16] = {};
  for (int64_t i = 0; i < visible; ++i) {
    p[i] = ExpNonPositive(s[i] - m);
    lanes[i % 16] += p[i];
    if (row.bf16) p[i] = Bf16(p[i]);
  }
  const float r = part->m == -INFINITY ? 0 : ExpNonPositive(part->m - m);
  part->l = std::fma(part->l, r, FoldLanes(lanes));
  part->m = m;
  for (int64_t d = 0; d < dim; ++d) {
    Values v(64, 0.0f);
    for (int64_t i = 0; i < visible; ++i) v[i] = row.stored(1, begin + i, d);
    part->o[d] = std::fma(part->o[d], r, Dot(p, v, row.bf16));
  }
}

void AttendExactly(const Row& row, float* out) {
  const size_t dim = row.q.size();
  std::vector<Part> parts;
  float max = -INFINITY;
  for (int64_t segment = 0; segment <= row.position; segment += 512) {
    Part part;
    part.o.assign(dim, 0.0f);
    for (int64_t tile = segment; tile < segment + 512 && tile <= row.position;
         tile += 64) {
      AddTile(row, tile, &part);
    }
    max = std::max(max, part.m);
    parts.push_back(part);
  }
  float l = 0;
  Values o(dim, 0.0f);
  for (const Part& part : parts) {
    const float w = ExpNonPositive(part.m - max);
    l = std::fma(part.l, w, l);
    for (size_t d = 0; d < dim; ++d) o[d] = std::fma(part.o[d], w, o[d]);
  }
  for (size_t d = 0; d < dim; ++d) out[d] = o[d] / l + 0.0f;
}

}  // namespace

void ExactAttention(const AttentionArgs& args, float* out) {
  const ComputeFloatMode mode;
  const KvView& kv = args.kv;
  Row row;
  row.args = &args;
  row.bf16 = kv.dtype == KvDtype::kBF16;
  for (size_t i = 0; i < args.kv_before.size(); ++i) {
    const uint32_t* table = args.block_table + i * args.table_width;
    for (int64_t t = args.q_off[i]; t < args.q_off[i + 1]; ++t) {
      row.position = args.kv_before[i] + t - args.q_off[i];
      for (int64_t h = 0; h < args.heads; ++h) {
        row.stored = [&](int comp, int64_t key, int64_t d) {
          return StoredKv(kv, {.block = table[key / kv.block_tokens],
                               .comp = comp,
                               .head = h / (args.heads / kv.kv_heads),
                               .offset = key % kv.block_tokens,
                               .d = d});
        };
        const float* q = args.q.Row(t) + h * kv.head_dim;
        row.q.assign(q, q + kv.head_dim);
        if (row.bf16) {
          for (float& x : row.q) x = Bf16(x);
        }
        AttendExactly(row, out + (t * args.heads + h) * kv.head_dim);
      }
    }
  }
}

}  // namespace sluice::kernels
