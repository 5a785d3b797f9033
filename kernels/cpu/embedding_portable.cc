#include "base/check.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/thread_pool.h"

namespace sluice::kernels {

void EmbeddingPortable(const OpContext& context, const EmbeddingArgs& args) {
  const int64_t tokens = static_cast<int64_t>(args.ids.size());
  SLUICE_CHECK(args.y.rows == tokens && args.y.cols == args.table.k);
  if (tokens == 0) return;
  const auto decode = [&](WorkRange rows) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      DecodeRow(args.table, args.ids[static_cast<size_t>(t)], args.y.Row(t));
    }
  };
  // A decode step's few rows are cheaper than waking the pool.
  if (tokens <= 4) return decode({0, tokens});
  const int threads = context.pool->num_threads();
  context.pool->Run(
      [&](int thread) { decode(PartOf(tokens, 1, thread, threads)); });
}

}  // namespace sluice::kernels
