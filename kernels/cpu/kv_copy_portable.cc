#include <algorithm>
#include <cstring>

#include "kernels/cpu/kv_copy_rows.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/quant/bf16.h"

namespace sluice::kernels {
namespace {

struct PortableRounder {
  static void Round(const float* x, int64_t n, uint16_t* bf16) {
    for (int64_t i = 0; i < n; ++i) bf16[i] = F32ToBf16(x[i]);
  }
};

// One item of work; a block is usually several of these.
constexpr int64_t kCopyBytes = int64_t{1} << 16;

}  // namespace

void WriteKvPortable(const OpContext& context, const WriteKvArgs& args) {
  WriteKvRows<PortableRounder>(context, args);
}

void CopyBlocksPortable(const OpContext& context, const CopyBlocksArgs& args) {
  const int64_t bytes = args.block_stride_bytes;
  const int64_t parts = (bytes + kCopyBytes - 1) / kCopyBytes;
  const int64_t pairs = static_cast<int64_t>(args.pairs.size());
  ShareItems(context, pairs * parts, [&](int, int64_t item) {
    const BlockCopyPair& pair = args.pairs[item / parts];
    const int64_t begin = item % parts * kCopyBytes;
    std::memcpy(args.base + pair.to * bytes + begin,
                args.base + pair.from * bytes + begin,
                std::min(kCopyBytes, bytes - begin));
  });
}

}  // namespace sluice::kernels
