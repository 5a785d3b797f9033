#ifndef KERNELS_CPU_OPS_AVX2_H_
#define KERNELS_CPU_OPS_AVX2_H_

#include "kernels/append_kv.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/kv_copy.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/sample.h"
#include "kernels/tensor_view.h"

// Paths for AVX2, FMA3 and F16C; bits equal the portable ones. Call only where
// DetectIsa() >= Isa::kAvx2.

namespace sluice::kernels {

void RmsNormAvx2(const OpContext& context, const RmsNormArgs& args);
void PackActivationsAvx2(const OpContext& context,
                         const PackActivationsArgs& args);
void MatmulAvx2(const OpContext& context, const MatmulArgs& args);
void AppendKvAvx2(const OpContext& context, const AppendKvArgs& args);
void CopyBlocksAvx2(const OpContext& context, const CopyBlocksArgs& args);
void AttentionAvx2(const OpContext& context, const AttentionArgs& args);
void SiluMulAvx2(const OpContext& context, const SiluMulArgs& args);
void AddAvx2(const OpContext& context, const AddArgs& args);
void SampleAvx2(const OpContext& context, const SampleArgs& args);
void LogprobsAvx2(const OpContext& context, const LogprobsArgs& args);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_OPS_AVX2_H_
