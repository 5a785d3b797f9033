#ifndef KVTRANSFER_PIECE_KERNELS_H_
#define KVTRANSFER_PIECE_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kvtransfer/block_digest.h"

namespace sluice::kvtransfer {

// How the words of a run lie in memory (kv_layout.h): tokens one after the
// other, or tiles of kTileTokens tokens of 16-bit values.
enum class RunOrder : uint8_t { kRows, kKeyTiles, kValueTiles };
inline constexpr uint32_t kTileTokens = 16;

// One run of one head inside a piece: `tokens` valid tokens of `words` whole
// words each, in `size_bytes` of memory; what lies behind the valid tokens is
// copied, but not digested. Tiles need words to be a multiple of 4.
struct PieceRun {
  RunOrder order = RunOrder::kRows;
  uint32_t words = 0;
  uint32_t tokens = 0;
  uint64_t size_bytes = 0;
  uint64_t key = 0;  // DigestKey() of word 0 of token 0 of the sequence
};

// A contiguous piece of one block: runs one after the other, all of the same
// tokens.
struct PieceArgs {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;  // of size_bytes; not for digests alone
  uint64_t size_bytes = 0;
  absl::Span<const PieceRun> runs;  // add up to size_bytes; not for copies
  uint64_t token = 0;               // position of the runs' first token
  // Where the next piece will be read, and where the one after it will be read
  // and written; only prefetched, so it may be any address. Null: unknown.
  const std::byte* next = nullptr;
  const std::byte* later_from = nullptr;
  const std::byte* later_to = nullptr;
};

// The loops that move and prove KV. Every source byte is read once: what was
// digested is what was stored, though the source may change meanwhile. Stores
// are non-temporal where `to` is aligned: StoreFence() after the last. Reads
// run a page ahead, into the next piece: scattered blocks cost a page walk
// each, which must not be waited for. All levels give the same sums and bytes.
struct PieceKernels {
  void (*copy)(const PieceArgs& args);
  uint64_t (*digest)(const PieceArgs& args);
  uint64_t (*copy_and_digest)(const PieceArgs& args);
  // What copy and copy_and_digest do for each of up to kGroupPieces pieces,
  // side by side if they are alike (of one size and, to digest, of the same
  // `runs`), else one after the other. A piece's `next` is where the piece as
  // far on in the next group will be read. sums[i]: the digest of piece i.
  void (*copy_group)(absl::Span<const PieceArgs> pieces);
  void (*copy_and_digest_group)(absl::Span<const PieceArgs> pieces,
                                absl::Span<uint64_t> sums);
};

// Scattered pieces are bound by how many reads are under way: eight pages at
// once are 1.5 times as fast as one and a prefetched one, more of them crowd
// one another out of the caches. Larger pieces are fast by themselves.
inline constexpr size_t kGroupPieces = 8;
inline constexpr uint64_t kGroupedBytes = 64 << 10;

// Loops of a level, which the CPU must have; and of the best one.
const PieceKernels& PieceKernelsOf(DigestLevel level);
const PieceKernels& BestPieceKernels();

// Of the two levels with a file of their own; call only on a CPU that has it.
extern const PieceKernels kPieceKernelsAvx2;
extern const PieceKernels kPieceKernelsAvx512;

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_PIECE_KERNELS_H_
