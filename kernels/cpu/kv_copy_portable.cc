#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {
namespace {

// One item of work; a block is usually several of these.
constexpr int64_t kCopyBytes = int64_t{1} << 16;

}  // namespace

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
