#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/random_avx2.h"
#include "kernels/cpu/sample_lanes.h"

namespace sluice::kernels {

void SampleAvx2(const OpContext& context, const SampleArgs& args) {
  SampleWithLanes<Avx2Lanes, Avx2Random>(context, args);
}

}  // namespace sluice::kernels
