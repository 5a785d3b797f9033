#ifndef KVTRANSFER_TILE_DIGEST_H_
#define KVTRANSFER_TILE_DIGEST_H_

#include <cstddef>
#include <cstdint>

#include "kvtransfer/block_digest.h"

namespace sluice::kvtransfer {

// One tile of 16 tokens of one head in cpu_tiles order, 16-bit values:
// keys [head_dim / 2, 16, 2], values [8, head_dim, 2].
struct TileShape {
  bool is_key = true;
  uint32_t head_dim = 0;  // multiple of 4: a token is whole words
  uint32_t tokens = 16;   // valid ones, from the front
  uint64_t key = 0;       // DigestKey() of word 0 of the first token
};

// The digest of the valid tokens of a tile, without reordering it. All levels
// give the same sum; a level must be one the CPU has.
uint64_t DigestTileWords(const TileShape& shape, const std::byte* tile);
uint64_t DigestTileWordsAt(DigestLevel level, const TileShape& shape,
                           const std::byte* tile);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TILE_DIGEST_H_
