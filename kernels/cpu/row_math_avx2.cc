#include "kernels/cpu/elementwise_lanes.h"
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/rms_norm_lanes.h"
#include "kernels/cpu/row_math.h"

namespace sluice::kernels {

const RowMath kRowMathAvx2 = {NormFactor<Avx2Lanes>, ScaleRow<Avx2Lanes>,
                              SiluMulRow<Avx2Lanes>};

}  // namespace sluice::kernels
