#ifndef KVTRANSFER_BLOCK_DIGEST_H_
#define KVTRANSFER_BLOCK_DIGEST_H_

#include <cstddef>
#include <cstdint>

namespace sluice::kvtransfer {

// The SplitMix64 finaliser (sampling.md section 5.3).
constexpr uint64_t MixWord(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// What is added to word i of a group before it is mixed.
inline constexpr uint64_t kDigestStep = 0x9E3779B97F4A7C15u;
constexpr uint64_t DigestKey(uint64_t index, uint32_t group_id) {
  return (index + 1) * kDigestStep + group_id * 0xD1B54A32D192ED03u;
}

// Largest token position + 1 that digests tell apart.
inline constexpr uint32_t kMaxDigestTokens = 1 << 24;

// The digest of kv_transfer.md section 6 over part of a group:
//   sum of mix(w + (i + 1) * 0x9E37...7C15 + group_id * 0xD1B5...ED03)
// over 8-byte little-endian words w, mod 2^64. Digests of disjoint parts add
// up to the digest of the whole, in any order.

// Index i of word 0 of token `token` of one head; `words` = words a token.
// Layer and head are the model's, token is absolute.
struct WordIndex {
  uint32_t layer = 0;
  uint32_t comps = 1;
  uint32_t comp = 0;
  uint32_t heads_total = 1;
  uint32_t head = 0;
  uint32_t token = 0;
  uint32_t words = 1;

  uint64_t Value() const {
    const uint64_t row = (uint64_t{layer} * comps + comp) * heads_total + head;
    return ((row << 24) + token) * words;
  }
};

// Instruction-set levels of the two loops below; all give the same sums.
enum class DigestLevel { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

// Both walk `num_words` words at `from` whose indices are `index`,
// index + 1, ... Copy() also stores each word it digested at `to`, with
// non-temporal stores where `to` is aligned; the source is read once, so a
// copy and its digest always agree. Call StoreFence() after the last Copy().
struct DigestKernels {
  uint64_t (*digest)(const std::byte* from, size_t num_words, uint64_t index,
                     uint32_t group_id);
  uint64_t (*copy)(std::byte* to, const std::byte* from, size_t num_words,
                   uint64_t index, uint32_t group_id);
};

// The best level of this CPU, and the loops of a level (which the CPU must
// have).
DigestLevel BestDigestLevel();
const DigestKernels& DigestKernelsOf(DigestLevel level);

// Loops of BestDigestLevel().
const DigestKernels& BestDigestKernels();

// Orders earlier non-temporal stores before later stores.
void StoreFence();

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_BLOCK_DIGEST_H_
