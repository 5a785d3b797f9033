#ifndef KERNELS_CPU_APPEND_KV_ROWS_H_
#define KERNELS_CPU_APPEND_KV_ROWS_H_

#include <algorithm>

#include "base/check.h"
#include "kernels/append_kv.h"
#include "kernels/cpu/kv_copy_rows.h"
#include "kernels/cpu/work_split.h"

// The rows of append_kv, for every level. Path keeps the instances of different
// instruction sets apart.

namespace sluice::kernels {

template <typename Path>
void CheckRope(const RopeArgs& args) {
  SLUICE_CHECK(args.x.rows == static_cast<int64_t>(args.positions.size()));
  SLUICE_CHECK(args.x.cols == args.heads * args.head_dim);
  SLUICE_CHECK(args.table.rot % 2 == 0 && args.table.rot <= args.head_dim);
  for (const int64_t position : args.positions) {
    SLUICE_CHECK(position >= 0 && position < args.table.positions);
  }
}

template <typename Path>
void CheckWrite(const WriteKvArgs& args) {
  const KvView& kv = args.kv;
  const int64_t width = kv.kv_heads * kv.head_dim;
  const int64_t rows = static_cast<int64_t>(args.slots.size());
  SLUICE_CHECK(args.k.rows == rows && args.v.rows == rows);
  SLUICE_CHECK(args.k.cols == width && args.v.cols == width);
  SLUICE_CHECK(kv.head_dim <= kMaxHeadDim);
  SLUICE_CHECK(kv.order == KvOrder::kCanonical ||
               (kv.dtype == KvDtype::kBF16 && kv.block_tokens % 16 == 0 &&
                kv.head_dim % 2 == 0));
}

// Path supplies `static void RotateRow(const RopeArgs&, int64_t t)` and the
// Rounder of kv_copy_rows.h.
template <typename Path>
void AppendKvRows(const OpContext& context, const AppendKvArgs& args) {
  const int64_t rotated = args.rope.x.rows;
  const int64_t written = static_cast<int64_t>(args.write.slots.size());
  SLUICE_CHECK(rotated == written || rotated == 0 || written == 0);
  if (rotated > 0) CheckRope<Path>(args.rope);
  if (written > 0) CheckWrite<Path>(args.write);
  const int64_t width = args.rope.x.cols + 2 * args.write.k.cols;
  SplitRows(context, std::max(rotated, written), width,
            [&](int64_t begin, int64_t end) {
              for (int64_t t = begin; t < end; ++t) {
                if (rotated > 0) Path::RotateRow(args.rope, t);
                if (written > 0) WriteKvRow<Path>(args.write, t);
              }
            });
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_APPEND_KV_ROWS_H_
