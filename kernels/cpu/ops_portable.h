#ifndef KERNELS_CPU_OPS_PORTABLE_H_
#define KERNELS_CPU_OPS_PORTABLE_H_

#include "kernels/append_kv.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/kv_copy.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/sample.h"
#include "kernels/tensor_view.h"

// The portable path: plain C++ that defines every op's bits
// (CPU numerics specification).

namespace sluice::kernels {

void EmbeddingPortable(const OpContext& context, const EmbeddingArgs& args);
void RmsNormPortable(const OpContext& context, const RmsNormArgs& args);
void PackActivationsPortable(const OpContext& context,
                             const PackActivationsArgs& args);
void MatmulPortable(const OpContext& context, const MatmulArgs& args);
void AppendKvPortable(const OpContext& context, const AppendKvArgs& args);
void CopyBlocksPortable(const OpContext& context, const CopyBlocksArgs& args);
void AttentionPortable(const OpContext& context, const AttentionArgs& args);
void SiluMulPortable(const OpContext& context, const SiluMulArgs& args);
void AddPortable(const OpContext& context, const AddArgs& args);
void SamplePortable(const OpContext& context, const SampleArgs& args);
void LogprobsPortable(const OpContext& context, const LogprobsArgs& args);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_OPS_PORTABLE_H_
