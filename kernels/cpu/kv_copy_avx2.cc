#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/ops_portable.h"

namespace sluice::kernels {

// Copying bytes has one version: libc's.
void CopyBlocksAvx2(const OpContext& context, const CopyBlocksArgs& args) {
  CopyBlocksPortable(context, args);
}

}  // namespace sluice::kernels
