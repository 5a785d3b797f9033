#include "kernels/cpu/append_kv_rows.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/quant/bf16.h"

namespace sluice::kernels {
namespace {

void RotateHead(const RopeArgs& args, int64_t position, float* x) {
  const int64_t half = args.table.rot / 2;
  const float* cosine = args.table.cos + position * half;
  const float* sine = args.table.sin + position * half;
  const bool interleaved = args.pairs == RopePairs::kInterleaved;
  for (int64_t i = 0; i < half; ++i) {
    float& a = interleaved ? x[2 * i] : x[i];
    float& b = interleaved ? x[2 * i + 1] : x[i + half];
    const float ac = a * cosine[i];
    const float bs = b * sine[i];
    const float as = a * sine[i];
    const float bc = b * cosine[i];
    a = ac - bs;
    b = as + bc;
  }
}

struct Path {
  static void Round(const float* x, int64_t n, uint16_t* bf16) {
    for (int64_t i = 0; i < n; ++i) bf16[i] = F32ToBf16(x[i]);
  }
  static void RotateRow(const RopeArgs& args, int64_t t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      RotateHead(args, args.positions[t], args.x.Row(t) + h * args.head_dim);
    }
  }
};

}  // namespace

void AppendKvPortable(const OpContext& context, const AppendKvArgs& args) {
  AppendKvRows<Path>(context, args);
}

}  // namespace sluice::kernels
