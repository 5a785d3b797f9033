#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/logprobs_lanes.h"
#include "kernels/cpu/ops_avx512.h"

namespace sluice::kernels {

void LogprobsAvx512(const OpContext& context, const LogprobsArgs& args) {
  LogprobsWithLanes<Avx512Lanes>(context, args);
}

}  // namespace sluice::kernels
