#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/random_avx512.h"
#include "kernels/cpu/sample_lanes.h"

namespace sluice::kernels {

void SampleAvx512(const OpContext& context, const SampleArgs& args) {
  SampleWithLanes<Avx512Lanes, Avx512Random>(context, args);
}

}  // namespace sluice::kernels
