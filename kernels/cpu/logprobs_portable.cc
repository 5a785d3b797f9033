#include <cmath>

#include "base/check.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/top_logprobs.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {

void LogprobsPortable(const OpContext& context, const LogprobsArgs& args) {
  const auto work = [&](int, int64_t i) {
    const LogprobsRow& row = args.rows[i];
    SLUICE_CHECK(row.token >= 0 && row.token < args.vocab);
    TopLogits top(row);
    float best = -INFINITY;
    for (int64_t t = 0; t < args.vocab; ++t) {
      const float x = row.logits[t];
      best = x > best ? x : best;
      top.Offer(static_cast<int32_t>(t), x);
    }
    double lanes[16] = {};
    for (int64_t t = 0; t < args.vocab; ++t) {
      lanes[t % 16] = lanes[t % 16] +
                      static_cast<double>(ExpNonPositive(row.logits[t] - best));
    }
    top.Finish(best, FoldLanes(lanes));
  };
  ShareItems(context, static_cast<int64_t>(args.rows.size()), work);
}

}  // namespace sluice::kernels
