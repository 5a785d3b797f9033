#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/rms_norm_lanes.h"

namespace sluice::kernels {

void RmsNormAvx2(const OpContext& context, const RmsNormArgs& args) {
  RmsNormWithLanes<Avx2Lanes>(context, args);
}

}  // namespace sluice::kernels
