#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/logprobs_lanes.h"
#include "kernels/cpu/ops_avx2.h"

namespace sluice::kernels {

void LogprobsAvx2(const OpContext& context, const LogprobsArgs& args) {
  LogprobsWithLanes<Avx2Lanes>(context, args);
}

}  // namespace sluice::kernels
