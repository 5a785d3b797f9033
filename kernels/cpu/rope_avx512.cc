#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/rope_lanes.h"

namespace sluice::kernels {

void RopeAvx512(const OpContext& context, const RopeArgs& args) {
  RopeWithLanes<Avx512Lanes>(context, args);
}

}  // namespace sluice::kernels
