#include "kvtransfer/piece_kernels.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kvtransfer/tile_digest.h"

namespace sluice::kvtransfer {
namespace {

uint64_t RowsDigest(const PieceRun& run, uint64_t key, const std::byte* from) {
  uint64_t sum = 0;
  const uint64_t words = uint64_t{run.tokens} * run.words;
  for (uint64_t i = 0; i < words; ++i, key += kDigestStep) {
    uint64_t word;
    std::memcpy(&word, from + i * 8, 8);
    sum += MixWord(word + key);
  }
  return sum;
}

uint64_t TilesDigest(const PieceRun& run, uint64_t key, const std::byte* from) {
  uint64_t sum = 0;
  const uint64_t token_bytes = uint64_t{run.words} * 8;
  for (uint32_t token = 0; token < run.tokens; token += kTileTokens) {
    const TileShape shape{
        .is_key = run.order == RunOrder::kKeyTiles,
        .head_dim = run.words * 4,
        .tokens = std::min(kTileTokens, run.tokens - token),
        .key = key + uint64_t{token} * run.words * kDigestStep};
    sum += DigestTileWordsAt(DigestLevel::kPortable, shape,
                             from + token * token_bytes);
  }
  return sum;
}

uint64_t DigestRunAt(const PieceRun& run, uint64_t token,
                     const std::byte* from) {
  const uint64_t key = run.key + token * run.words * kDigestStep;
  return run.order == RunOrder::kRows ? RowsDigest(run, key, from)
                                      : TilesDigest(run, key, from);
}

void Copy(const PieceArgs& args) {
  std::memcpy(args.to, args.from, args.size_bytes);
}

uint64_t Digest(const PieceArgs& args) {
  uint64_t sum = 0;
  const std::byte* from = args.from;
  for (const PieceRun& run : args.runs) {
    sum += DigestRunAt(run, args.token, from);
    from += run.size_bytes;
  }
  return sum;
}

// Digests what landed, run by run: while it is in a cache.
uint64_t CopyAndDigest(const PieceArgs& args) {
  uint64_t sum = 0;
  const std::byte* from = args.from;
  std::byte* to = args.to;
  for (const PieceRun& run : args.runs) {
    std::memcpy(to, from, run.size_bytes);
    sum += DigestRunAt(run, args.token, to);
    from += run.size_bytes;
    to += run.size_bytes;
  }
  return sum;
}

void CopyGroup(absl::Span<const PieceArgs> pieces) {
  for (const PieceArgs& piece : pieces) Copy(piece);
}

void CopyAndDigestGroup(absl::Span<const PieceArgs> pieces,
                        absl::Span<uint64_t> sums) {
  for (size_t i = 0; i < pieces.size(); ++i) sums[i] = CopyAndDigest(pieces[i]);
}

constexpr PieceKernels kPortable = {Copy, Digest, CopyAndDigest, CopyGroup,
                                    CopyAndDigestGroup};

}  // namespace

const PieceKernels& PieceKernelsOf(DigestLevel level) {
  SLUICE_CHECK(level <= BestDigestLevel());
  switch (level) {
    case DigestLevel::kAvx512:
      return kPieceKernelsAvx512;
    case DigestLevel::kAvx2:
      return kPieceKernelsAvx2;
    default:
      return kPortable;
  }
}

const PieceKernels& BestPieceKernels() {
  static const PieceKernels& kernels = PieceKernelsOf(BestDigestLevel());
  return kernels;
}

}  // namespace sluice::kvtransfer
