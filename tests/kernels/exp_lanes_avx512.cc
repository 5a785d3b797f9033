#include "kernels/cpu/lanes_avx512.h"
#include "tests/kernels/exp_lanes.h"

namespace sluice::kernels {

void ExpAvx512(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    Avx512Lanes::Store(y + i, Avx512Lanes::Exp(Avx512Lanes::Load(x + i)));
  }
}

float FoldAvx512(const float* sixteen) {
  return Avx512Lanes::Fold(Avx512Lanes::Load(sixteen));
}

void RoundAvx512(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    Avx512Lanes::Store(y + i,
                       Avx512Lanes::RoundToBf16(Avx512Lanes::Load(x + i)));
  }
}

}  // namespace sluice::kernels
