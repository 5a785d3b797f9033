#include "worker/cache/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::worker {
namespace {

absl::string_view Bytes(const BlockHash& hash) {
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

}  // namespace

BlockHash RootHash(const HashRoot& root) {
  SLUICE_CHECK(root.fingerprint.size() == sizeof(BlockHash));
  Sha256 sha;
  sha.Update(absl::string_view("sluice.kv.1\0", 12)).Update(root.fingerprint);
  sha.UpdateU32(static_cast<uint32_t>(root.adapter.size()));
  sha.Update(root.adapter);
  sha.UpdateU32(static_cast<uint32_t>(root.salt.size()));
  sha.Update(root.salt);
  return sha.Finish();
}

BlockHash ChainedHash(const BlockHash& previous,
                      absl::Span<const TokenId> tokens,
                      absl::Span<const BlockExtra> extras) {
  // Token ids are hashed as they lie in memory.
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  Sha256 sha;
  sha.Update(Bytes(previous)).UpdateU32(static_cast<uint32_t>(tokens.size()));
  sha.Update({reinterpret_cast<const char*>(tokens.data()),
              tokens.size() * sizeof(TokenId)});
  sha.UpdateU32(static_cast<uint32_t>(extras.size()));
  for (const BlockExtra& extra : extras) {
    sha.UpdateU32(sizeof(int32_t) + sizeof(BlockHash));
    sha.UpdateU32(static_cast<uint32_t>(extra.offset));
    sha.Update(Bytes(extra.content));
  }
  return sha.Finish();
}

uint64_t ShortHash(const BlockHash& hash) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | hash[i];
  return value;
}

void HashChain::Extend(absl::Span<const TokenId> tokens) {
  const size_t full = tokens.size() / block_tokens_;
  while (hashes_.size() < full) {
    const size_t first = hashes_.size() * block_tokens_;
    const BlockHash& previous = hashes_.empty() ? root_ : hashes_.back();
    hashes_.push_back(
        ChainedHash(previous, tokens.subspan(first, block_tokens_), {}));
  }
}

PrefixCache::PrefixCache(BlockAllocator* allocator)
    : allocator_(*allocator), by_block_(allocator->num_blocks()) {
  allocator_.set_on_evicted([this](BlockId block) { Forget(block); });
}

std::vector<BlockId> PrefixCache::Match(
    absl::Span<const BlockHash> hashes) const {
  std::vector<BlockId> blocks;
  for (const BlockHash& hash : hashes) {
    const auto it = by_hash_.find(hash);
    if (it == by_hash_.end()) break;
    blocks.push_back(it->second);
  }
  return blocks;
}

BlockId PrefixCache::Commit(BlockId block, const BlockHash& hash) {
  SLUICE_CHECK(!by_block_[block].has_value());
  const auto [it, inserted] = by_hash_.emplace(hash, block);
  if (!inserted) {
    allocator_.Ref(it->second);
    return it->second;
  }
  allocator_.MarkHashed(block);
  by_block_[block] = hash;
  const uint64_t short_hash = ShortHash(hash);
  if (removed_.erase(short_hash) == 0) stored_.insert(short_hash);
  return block;
}

void PrefixCache::Reset() {
  // In eviction order, so that the free list keeps the age of its blocks.
  for (BlockId block : allocator_.CachedOrder()) {
    allocator_.ClearHashed(block);
    by_block_[block].reset();
  }
  for (BlockId block = 1; block < by_block_.size(); ++block) {
    if (!by_block_[block].has_value()) continue;
    allocator_.ClearHashed(block);
    by_block_[block].reset();
  }
  by_hash_.clear();
  stored_.clear();
  removed_.clear();
  cleared_ = true;
}

PrefixCache::Changes PrefixCache::TakeChanges() {
  Changes changes;
  changes.cleared = std::exchange(cleared_, false);
  changes.stored.assign(stored_.begin(), stored_.end());
  changes.removed.assign(removed_.begin(), removed_.end());
  // A hash set has no order of its own; equal runs shall report equally.
  std::sort(changes.stored.begin(), changes.stored.end());
  std::sort(changes.removed.begin(), changes.removed.end());
  stored_.clear();
  removed_.clear();
  return changes;
}

absl::Status PrefixCache::CheckInvariants() const {
  uint32_t hashed = 0;
  for (BlockId block = 0; block < by_block_.size(); ++block) {
    if (by_block_[block].has_value() != allocator_.hashed(block)) {
      return absl::InternalError(
          absl::StrCat("block ", block, ": hash and mark disagree"));
    }
    if (!by_block_[block].has_value()) continue;
    ++hashed;
    const auto it = by_hash_.find(*by_block_[block]);
    if (it == by_hash_.end() || it->second != block) {
      return absl::InternalError(
          absl::StrCat("block ", block, " is not found by its hash"));
    }
  }
  if (hashed != by_hash_.size()) {
    return absl::InternalError("a hash names a block that does not have it");
  }
  return absl::OkStatus();
}

void PrefixCache::Forget(BlockId block) {
  SLUICE_CHECK(by_block_[block].has_value());
  const BlockHash hash = *by_block_[block];
  by_hash_.erase(hash);
  by_block_[block].reset();
  const uint64_t short_hash = ShortHash(hash);
  if (stored_.erase(short_hash) == 0) removed_.insert(short_hash);
}

}  // namespace sluice::worker
