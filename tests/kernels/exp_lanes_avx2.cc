#include "kernels/cpu/lanes_avx2.h"
#include "tests/kernels/exp_lanes.h"

namespace sluice::kernels {

void ExpAvx2(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    Avx2Lanes::Store(y + i, Avx2Lanes::Exp(Avx2Lanes::Load(x + i)));
  }
}

float FoldAvx2(const float* sixteen) {
  return Avx2Lanes::Fold(Avx2Lanes::Load(sixteen));
}

void RoundAvx2(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    Avx2Lanes::Store(y + i, Avx2Lanes::RoundToBf16(Avx2Lanes::Load(x + i)));
  }
}

}  // namespace sluice::kernels
