#include "base/check.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/work_split.h"

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

}  // namespace

void RopePortable(const OpContext& context, const RopeArgs& args) {
  SLUICE_CHECK(args.x.rows == static_cast<int64_t>(args.positions.size()));
  SLUICE_CHECK(args.x.cols == args.heads * args.head_dim);
  SLUICE_CHECK(args.table.rot % 2 == 0 && args.table.rot <= args.head_dim);
  SplitRows(context, args.x.rows, args.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t position = args.positions[t];
      SLUICE_CHECK(position >= 0 && position < args.table.positions);
      for (int64_t h = 0; h < args.heads; ++h) {
        RotateHead(args, position, args.x.Row(t) + h * args.head_dim);
      }
    }
  });
}

}  // namespace sluice::kernels
