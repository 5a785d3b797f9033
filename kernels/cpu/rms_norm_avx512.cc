#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/rms_norm_lanes.h"

namespace sluice::kernels {

void RmsNormAvx512(const OpContext& context, const RmsNormArgs& args) {
  RmsNormWithLanes<Avx512Lanes>(context, args);
}

}  // namespace sluice::kernels
