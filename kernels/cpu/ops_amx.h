#ifndef KERNELS_CPU_OPS_AMX_H_
#define KERNELS_CPU_OPS_AMX_H_

#include "kernels/matmul.h"

// What level amx has of its own; bits equal the portable ones. Call only where
// DetectIsa() >= Isa::kAmx: that asks the system for the tiles.

namespace sluice::kernels {

void MatmulAmx(const OpContext& context, const MatmulArgs& args);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_OPS_AMX_H_
