#include "kernels/cpu/elementwise_lanes.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"

namespace sluice::kernels {

void SiluMulAvx512(const OpContext& context, const SiluMulArgs& args) {
  SiluMulWithLanes<Avx512Lanes>(context, args);
}

void AddAvx512(const OpContext& context, const AddArgs& args) {
  AddWithLanes<Avx512Lanes>(context, args);
}

}  // namespace sluice::kernels
