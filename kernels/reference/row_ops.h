#ifndef KERNELS_REFERENCE_ROW_OPS_H_
#define KERNELS_REFERENCE_ROW_OPS_H_

#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/rope_table.h"

namespace sluice::kernels {

// The ops that work row by row, in f64. y is [rows, cols] without padding.
void RmsNormF64(const RmsNormArgs& args, double* y);
void SiluMulF64(const SiluMulArgs& args, double* y);

// RoPE with angles straight from the frequencies, cos and sin by libm.
void RopeF64(const RopeArgs& args, const RopeParams& params, double* y);

}  // namespace sluice::kernels

#endif  // KERNELS_REFERENCE_ROW_OPS_H_
