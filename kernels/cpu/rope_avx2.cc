#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/rope_lanes.h"

namespace sluice::kernels {

void RopeAvx2(const OpContext& context, const RopeArgs& args) {
  RopeWithLanes<Avx2Lanes>(context, args);
}

}  // namespace sluice::kernels
