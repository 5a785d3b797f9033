#ifndef KERNELS_CPU_OPS_AVX512_H_
#define KERNELS_CPU_OPS_AVX512_H_

#include "kernels/append_kv.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/kv_copy.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/sample.h"
#include "kernels/tensor_view.h"

// Paths for AVX-512 F, BW, VL, DQ and VNNI; bits equal the portable ones. Call
// only where DetectIsa() >= Isa::kAvx512.

namespace sluice::kernels {

void RmsNormAvx512(const OpContext& context, const RmsNormArgs& args);
void PackActivationsAvx512(const OpContext& context,
                           const PackActivationsArgs& args);
void MatmulAvx512(const OpContext& context, const MatmulArgs& args);
// With vdpbf16ps; only where DetectIsa() >= Isa::kAvx512Bf16.
void MatmulAvx512Bf16(const OpContext& context, const MatmulArgs& args);
void AppendKvAvx512(const OpContext& context, const AppendKvArgs& args);
void CopyBlocksAvx512(const OpContext& context, const CopyBlocksArgs& args);
void AttentionAvx512(const OpContext& context, const AttentionArgs& args);
void SiluMulAvx512(const OpContext& context, const SiluMulArgs& args);
void AddAvx512(const OpContext& context, const AddArgs& args);
void SampleAvx512(const OpContext& context, const SampleArgs& args);
void LogprobsAvx512(const OpContext& context, const LogprobsArgs& args);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_OPS_AVX512_H_
