#ifndef WORKER_CACHE_PREFIX_CACHE_H_
#define WORKER_CACHE_PREFIX_CACHE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/sha256.h"
#include "worker/cache/block_allocator.h"

namespace sluice::worker {

using TokenId = int32_t;
using BlockHash = Sha256Digest;

// What every block of a chain depends on (section 5.1 of the KV cache
// specification).
struct HashRoot {
  std::string fingerprint;  // 32 bytes
  std::string adapter;      // empty: none
  std::string salt;         // <= 256 bytes
};
BlockHash RootHash(const HashRoot& root);

// An image or other item that overlaps a block.
struct BlockExtra {
  int32_t offset = 0;  // of the item's first token, from the block's first
  BlockHash content{};
};

// The hash of a full block after the block (or root) with hash `previous`.
// `tokens` has block_tokens entries.
BlockHash ChainedHash(const BlockHash& previous,
                      absl::Span<const TokenId> tokens,
                      absl::Span<const BlockExtra> extras);

// First 8 bytes, little endian: how a router knows a block.
uint64_t ShortHash(const BlockHash& hash);

// Hashes of a growing token list's full blocks.
class HashChain {
 public:
  HashChain(BlockHash root, uint32_t block_tokens)
      : root_(root), block_tokens_(block_tokens) {}

  // `tokens` is the whole list so far and only ever grows.
  void Extend(absl::Span<const TokenId> tokens);
  const std::vector<BlockHash>& hashes() const { return hashes_; }

 private:
  BlockHash root_;
  uint32_t block_tokens_;
  std::vector<BlockHash> hashes_;
};

// Finds blocks of `allocator`, which is borrowed, by the hash of their tokens
// and everything before. Engine thread only; the one writer of the allocator's
// hash marks. Keys are full hashes, so a false match cannot happen.
class PrefixCache {
 public:
  // Net changes since the last TakeChanges(); a router applies `cleared` first.
  struct Changes {
    bool cleared = false;
    std::vector<uint64_t> stored;
    std::vector<uint64_t> removed;
    bool empty() const { return !cleared && stored.empty() && removed.empty(); }
  };

  explicit PrefixCache(BlockAllocator* allocator);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The blocks of the longest known prefix of `hashes`. Takes no references.
  std::vector<BlockId> Match(absl::Span<const BlockHash> hashes) const;

  // `block` is active, full and without a hash. Returns the block that stands
  // for `hash` from now on: `block`, or another one, to which a reference was
  // added; the caller then drops its reference to `block`.
  BlockId Commit(BlockId block, const BlockHash& hash);

  // Drops every hash; cached blocks become free.
  void Reset();

  Changes TakeChanges();
  uint32_t size() const { return static_cast<uint32_t>(by_hash_.size()); }
  // kInternal: hash and block are not a bijection, or the marks disagree.
  absl::Status CheckInvariants() const;

 private:
  void Forget(BlockId block);

  BlockAllocator& allocator_;
  absl::flat_hash_map<BlockHash, BlockId> by_hash_;
  std::vector<std::optional<BlockHash>> by_block_;  // by block id
  bool cleared_ = false;
  absl::flat_hash_set<uint64_t> stored_;
  absl::flat_hash_set<uint64_t> removed_;
};

}  // namespace sluice::worker

#endif  // WORKER_CACHE_PREFIX_CACHE_H_
