#include "kernels/cpu/elementwise_lanes.h"
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_avx2.h"

namespace sluice::kernels {

void SiluMulAvx2(const OpContext& context, const SiluMulArgs& args) {
  SiluMulWithLanes<Avx2Lanes>(context, args);
}

void AddAvx2(const OpContext& context, const AddArgs& args) {
  AddWithLanes<Avx2Lanes>(context, args);
}

}  // namespace sluice::kernels
