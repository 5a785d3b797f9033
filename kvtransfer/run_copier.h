#ifndef KVTRANSFER_RUN_COPIER_H_
#define KVTRANSFER_RUN_COPIER_H_

#include <cstddef>
#include <cstdint>

#include "kvtransfer/block_digest.h"
#include "kvtransfer/kv_layout.h"

namespace sluice::kvtransfer {

// One run: `tokens` valid tokens of one (layer, comp, head) of a group,
// contiguous in either order. In cpu_tiles it starts on a tile and occupies
// whole tiles.
struct RunShape {
  uint32_t group_id = 0;
  WordIndex index;  // of the first token; words = words a token
  uint32_t head_dim = 0;
  uint32_t element_bytes = 2;
  uint32_t tokens = 0;

  uint64_t token_bytes() const { return uint64_t{head_dim} * element_bytes; }
  // Bytes the run occupies in `order`.
  uint64_t BytesIn(InnerOrder order) const {
    const uint64_t group = TokenGroup(order);
    return (tokens + group - 1) / group * group * token_bytes();
  }
};

// Digest of the valid tokens of a run stored at `from` in `order`.
uint64_t DigestRun(const RunShape& run, InnerOrder order,
                   const std::byte* from);

// The same for tokens that need not start a tile: those from `in_block` on of
// the head block at `head_block`.
uint64_t DigestAppended(const RunShape& run, InnerOrder order,
                        uint32_t in_block, const std::byte* head_block);

// Copies a run from one order to the other, or the same, and returns the
// digest of what it stored. Reads each source byte once: the source may
// change meanwhile, copy and digest agree all the same. Tokens past the valid
// ones inside a last tile are unspecified afterwards.
uint64_t CopyRun(const RunShape& run, InnerOrder from_order,
                 const std::byte* from, InnerOrder to_order, std::byte* to);

// Copies bytes [offset, offset + size) of a run's canonical form to their
// places in `to_order` at `to`, the start of the run. Offset and size are
// multiples of element_bytes. For the pieces of a run that a message cuts.
void PlaceCanonicalPiece(const RunShape& run, uint64_t offset, uint64_t size,
                         const std::byte* from, InnerOrder to_order,
                         std::byte* to);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_RUN_COPIER_H_
