#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/quant/bf16.h"

namespace sluice::kernels {
namespace {

// Index of a value among the block_tokens * head_dim of its head.
int64_t IndexInHead(const KvView& kv, const KvPlace& p) {
  if (kv.order == KvOrder::kCanonical) return p.offset * kv.head_dim + p.d;
  if (p.comp == 0) {
    return ((p.offset / 16 * (kv.head_dim / 2) + p.d / 2) * 16 +
            p.offset % 16) *
               2 +
           p.d % 2;
  }
  return (p.offset / 2 * kv.head_dim + p.d) * 2 + p.offset % 2;
}

struct RowOfHead {
  int64_t sequence = 0;
  int64_t position = 0;
  int64_t kv_head = 0;
};

void AttendF64(const AttentionArgs& args, const RowOfHead& row, const float* q,
               double* out) {
  const KvView& kv = args.kv;
  const auto stored = [&](int comp, int64_t key, int64_t d) {
    return double{StoredKv(
        kv, {.block = args.block_table[row.sequence * args.table_width +
                                       key / kv.block_tokens],
             .comp = comp,
             .head = row.kv_head,
             .offset = key % kv.block_tokens,
             .d = d})};
  };
  std::vector<double> score(static_cast<size_t>(row.position) + 1);
  double max = -INFINITY;
  for (int64_t key = 0; key <= row.position; ++key) {
    double dot = 0;
    for (int64_t d = 0; d < kv.head_dim; ++d) dot += q[d] * stored(0, key, d);
    score[key] = double{args.scale} * dot;
    max = std::max(max, score[key]);
  }
  double sum = 0;
  std::fill(out, out + kv.head_dim, 0.0);
  for (int64_t key = 0; key <= row.position; ++key) {
    const double p = std::exp(score[key] - max);
    sum += p;
    for (int64_t d = 0; d < kv.head_dim; ++d) out[d] += p * stored(1, key, d);
  }
  for (int64_t d = 0; d < kv.head_dim; ++d) out[d] /= sum;
}

}  // namespace

float StoredKv(const KvView& kv, const KvPlace& p) {
  const uint8_t* head = kv.base + p.block * kv.block_stride_bytes +
                        p.comp * kv.comp_stride_bytes +
                        p.head * kv.head_stride_bytes;
  const int64_t index = IndexInHead(kv, p);
  if (kv.dtype == KvDtype::kF32) {
    float value;
    std::memcpy(&value, head + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, head + index * 2, 2);
  return Bf16ToF32(bits);
}

void AttentionF64(const AttentionArgs& args, double* out) {
  const int64_t dim = args.kv.head_dim;
  const int64_t group = args.heads / args.kv.kv_heads;
  for (size_t i = 0; i < args.kv_before.size(); ++i) {
    for (int64_t t = args.q_off[i]; t < args.q_off[i + 1]; ++t) {
      for (int64_t h = 0; h < args.heads; ++h) {
        AttendF64(args,
                  {.sequence = static_cast<int64_t>(i),
                   .position = args.kv_before[i] + t - args.q_off[i],
                   .kv_head = h / group},
                  args.q.Row(t) + h * dim, out + (t * args.heads + h) * dim);
      }
    }
  }
}

}  // namespace sluice::kernels
