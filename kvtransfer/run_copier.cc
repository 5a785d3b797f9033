#include "kvtransfer/run_copier.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "kvtransfer/tile_digest.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kTile = 16;      // tokens
constexpr uint32_t kMaxDims = 256;  // of a tile handled at once
using Scratch = std::array<uint16_t, kTile * kMaxDims>;

// A tile is cut along head_dim into slices of at most kMaxDims values, so
// that a slice of 16 tokens fits the scratch. In memory a slice is contiguous
// for K ([dims / 2, 16, 2]) and 8 pieces for V ([8, head_dim, 2]).
struct Slice {
  uint32_t first_dim;
  uint32_t dims;
};

// Tile memory -> rows [16][dims].
void Detile(const RunShape& run, const uint16_t* tile, Slice slice,
            uint16_t* rows) {
  if (run.index.comp == 0) {
    const uint16_t* from = tile + slice.first_dim * kTile;
    for (uint32_t pair = 0; pair < slice.dims / 2; ++pair) {
      for (uint32_t token = 0; token < kTile; ++token, from += 2) {
        std::memcpy(rows + token * slice.dims + pair * 2, from, 4);
      }
    }
    return;
  }
  for (uint32_t pair = 0; pair < kTile / 2; ++pair) {
    const uint16_t* from = tile + (pair * run.head_dim + slice.first_dim) * 2;
    uint16_t* even = rows + 2 * pair * slice.dims;
    uint16_t* odd = even + slice.dims;
    for (uint32_t d = 0; d < slice.dims; ++d) {
      even[d] = from[2 * d];
      odd[d] = from[2 * d + 1];
    }
  }
}

// Rows [16][dims] -> tile memory.
void Tile(const RunShape& run, const uint16_t* rows, Slice slice,
          uint16_t* tile) {
  if (run.index.comp == 0) {
    uint16_t* to = tile + slice.first_dim * kTile;
    for (uint32_t pair = 0; pair < slice.dims / 2; ++pair) {
      for (uint32_t token = 0; token < kTile; ++token, to += 2) {
        std::memcpy(to, rows + token * slice.dims + pair * 2, 4);
      }
    }
    return;
  }
  for (uint32_t pair = 0; pair < kTile / 2; ++pair) {
    uint16_t* to = tile + (pair * run.head_dim + slice.first_dim) * 2;
    const uint16_t* even = rows + 2 * pair * slice.dims;
    const uint16_t* odd = even + slice.dims;
    for (uint32_t d = 0; d < slice.dims; ++d) {
      to[2 * d] = even[d];
      to[2 * d + 1] = odd[d];
    }
  }
}

uint64_t DigestTail(const RunShape& run, uint64_t index, const std::byte* from,
                    size_t bytes) {
  std::byte padded[8] = {};
  std::memcpy(padded, from, bytes);
  return BestDigestKernels().digest(padded, 1, index, run.group_id);
}

// Digest of `dims` values from `first_dim` of `tokens` rows at `rows`, whose
// first is the run's token `token`. first_dim is a multiple of kMaxDims.
uint64_t DigestRows(const RunShape& run, uint32_t token, uint32_t tokens,
                    Slice slice, const std::byte* rows) {
  const uint64_t first = run.index.Value() + uint64_t{token} * run.index.words +
                         uint64_t{slice.first_dim} * run.element_bytes / 8;
  const uint64_t row_bytes = uint64_t{slice.dims} * run.element_bytes;
  const DigestKernels& kernels = BestDigestKernels();
  if (row_bytes == run.index.words * uint64_t{8}) {
    return kernels.digest(rows, tokens * row_bytes / 8, first, run.group_id);
  }
  uint64_t sum = 0;
  for (uint32_t t = 0; t < tokens; ++t, rows += row_bytes) {
    const uint64_t index = first + uint64_t{t} * run.index.words;
    sum += kernels.digest(rows, row_bytes / 8, index, run.group_id);
    if (row_bytes % 8 != 0) {
      sum += DigestTail(run, index + row_bytes / 8, rows + row_bytes / 8 * 8,
                        row_bytes % 8);
    }
  }
  return sum;
}

uint64_t CopyCanonical(const RunShape& run, const std::byte* from,
                       std::byte* to) {
  const uint64_t bytes = run.tokens * run.token_bytes();
  if (run.token_bytes() % 8 == 0) {
    return BestDigestKernels().copy(to, from, bytes / 8, run.index.Value(),
                                    run.group_id);
  }
  std::memcpy(to, from, bytes);
  return DigestRows(run, 0, run.tokens, {0, run.head_dim}, to);
}

uint32_t ValidInTile(const RunShape& run, uint32_t token) {
  return std::min(kTile, run.tokens - token);
}

// Calls fn(token, slice) for every slice of every tile.
template <typename Fn>
void ForEachSlice(const RunShape& run, Fn fn) {
  for (uint32_t token = 0; token < run.tokens; token += kTile) {
    for (uint32_t d = 0; d < run.head_dim; d += kMaxDims) {
      fn(token, Slice{d, std::min(kMaxDims, run.head_dim - d)});
    }
  }
}

const uint16_t* TileAt(const RunShape& run, const std::byte* run_start,
                       uint32_t token) {
  return reinterpret_cast<const uint16_t*>(run_start +
                                           token * run.token_bytes());
}

// Digest of one tile in place, where a token is whole words.
bool IsWholeWords(const RunShape& run) { return run.head_dim % 4 == 0; }

uint64_t DigestTile(const RunShape& run, uint32_t token,
                    const std::byte* tile) {
  const TileShape shape{
      .is_key = run.index.comp == 0,
      .head_dim = run.head_dim,
      .tokens = ValidInTile(run, token),
      .key = DigestKey(run.index.Value() + uint64_t{token} * run.index.words,
                       run.group_id)};
  return DigestTileWords(shape, tile);
}

uint64_t DigestTiles(const RunShape& run, const std::byte* from) {
  uint64_t sum = 0;
  if (IsWholeWords(run)) {
    for (uint32_t token = 0; token < run.tokens; token += kTile) {
      sum += DigestTile(run, token, from + token * run.token_bytes());
    }
    return sum;
  }
  alignas(64) Scratch rows;
  ForEachSlice(run, [&](uint32_t token, Slice slice) {
    Detile(run, TileAt(run, from, token), slice, rows.data());
    sum += DigestRows(run, token, ValidInTile(run, token), slice,
                      reinterpret_cast<const std::byte*>(rows.data()));
  });
  return sum;
}

uint64_t CopyTiles(const RunShape& run, const std::byte* from, std::byte* to) {
  uint64_t sum = 0;
  alignas(64) Scratch rows;
  const uint64_t tile_bytes = kTile * run.token_bytes();
  for (uint32_t token = 0; token < run.tokens; token += kTile) {
    // Digest what landed, while it is still in the first-level cache.
    std::byte* at = to + token * run.token_bytes();
    std::memcpy(at, from + token * run.token_bytes(), tile_bytes);
    if (IsWholeWords(run)) {
      sum += DigestTile(run, token, at);
      continue;
    }
    for (uint32_t d = 0; d < run.head_dim; d += kMaxDims) {
      const Slice slice{d, std::min(kMaxDims, run.head_dim - d)};
      Detile(run, reinterpret_cast<const uint16_t*>(at), slice, rows.data());
      sum += DigestRows(run, token, ValidInTile(run, token), slice,
                        reinterpret_cast<const std::byte*>(rows.data()));
    }
  }
  return sum;
}

uint64_t TilesFromCanonical(const RunShape& run, const std::byte* from,
                            std::byte* to) {
  uint64_t sum = 0;
  alignas(64) Scratch rows;
  ForEachSlice(run, [&](uint32_t token, Slice slice) {
    const uint32_t valid = ValidInTile(run, token);
    if (valid < kTile) rows.fill(0);
    for (uint32_t t = 0; t < valid; ++t) {
      std::memcpy(&rows[t * slice.dims],
                  from + (token + t) * run.token_bytes() + slice.first_dim * 2,
                  slice.dims * 2);
    }
    sum += DigestRows(run, token, valid, slice,
                      reinterpret_cast<const std::byte*>(rows.data()));
    Tile(run, rows.data(), slice,
         reinterpret_cast<uint16_t*>(to + token * run.token_bytes()));
  });
  return sum;
}

uint64_t CanonicalFromTiles(const RunShape& run, const std::byte* from,
                            std::byte* to) {
  uint64_t sum = 0;
  alignas(64) Scratch rows;
  ForEachSlice(run, [&](uint32_t token, Slice slice) {
    const uint32_t valid = ValidInTile(run, token);
    Detile(run, TileAt(run, from, token), slice, rows.data());
    sum += DigestRows(run, token, valid, slice,
                      reinterpret_cast<const std::byte*>(rows.data()));
    for (uint32_t t = 0; t < valid; ++t) {
      std::memcpy(to + (token + t) * run.token_bytes() + slice.first_dim * 2,
                  &rows[t * slice.dims], slice.dims * 2);
    }
  });
  return sum;
}

}  // namespace

uint64_t DigestRun(const RunShape& run, InnerOrder order,
                   const std::byte* from) {
  if (order == InnerOrder::kCpuTiles) return DigestTiles(run, from);
  return DigestRows(run, 0, run.tokens, {0, run.head_dim}, from);
}

uint64_t DigestAppended(const RunShape& run, InnerOrder order,
                        uint32_t in_block, const std::byte* head_block) {
  const std::byte* from = head_block + in_block * run.token_bytes();
  if (order == InnerOrder::kCanonical) return DigestRun(run, order, from);
  const uint32_t in_tile = in_block % kTile;
  const std::byte* tile = from - in_tile * run.token_bytes();
  if (in_tile == 0) return DigestRun(run, order, tile);
  // Sums are differences of sums: all from the start of the tile, less what
  // lies before. Both read the same bytes, which nobody writes.
  RunShape before = run;
  before.index.token -= in_tile;
  RunShape all = before;
  before.tokens = in_tile;
  all.tokens = in_tile + run.tokens;
  return DigestRun(all, order, tile) - DigestRun(before, order, tile);
}

uint64_t CopyRun(const RunShape& run, InnerOrder from_order,
                 const std::byte* from, InnerOrder to_order, std::byte* to) {
  if (from_order == InnerOrder::kCanonical) {
    return to_order == InnerOrder::kCanonical
               ? CopyCanonical(run, from, to)
               : TilesFromCanonical(run, from, to);
  }
  return to_order == InnerOrder::kCanonical ? CanonicalFromTiles(run, from, to)
                                            : CopyTiles(run, from, to);
}

void PlaceCanonicalPiece(const RunShape& run, uint64_t offset, uint64_t size,
                         const std::byte* from, InnerOrder to_order,
                         std::byte* to) {
  SLUICE_CHECK(offset % run.element_bytes == 0 &&
               size % run.element_bytes == 0);
  if (to_order == InnerOrder::kCanonical) {
    std::memcpy(to + offset, from, size);
    return;
  }
  for (uint64_t at = 0; at < size; at += 2) {
    const uint64_t element = (offset + at) / 2;
    const uint32_t token = static_cast<uint32_t>(element / run.head_dim);
    const uint32_t d = static_cast<uint32_t>(element % run.head_dim);
    std::byte* tile = to + token / kTile * kTile * run.token_bytes();
    const uint64_t place =
        run.index.comp == 0
            ? (uint64_t{d / 2} * kTile + token % kTile) * 2 + d % 2
            : (uint64_t{token % kTile / 2} * run.head_dim + d) * 2 + token % 2;
    std::memcpy(tile + place * 2, from + at, 2);
  }
}

}  // namespace sluice::kvtransfer
