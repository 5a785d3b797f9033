#include "kernels/cpu/elementwise_lanes.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/rms_norm_lanes.h"
#include "kernels/cpu/row_math.h"

namespace sluice::kernels {

const RowMath kRowMathAvx512 = {NormFactor<Avx512Lanes>, ScaleRow<Avx512Lanes>,
                                SiluMulRow<Avx512Lanes>};

}  // namespace sluice::kernels
