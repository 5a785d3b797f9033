#include "router/route/prefix_index.h"

namespace sluice::router {

void PrefixIndex::Apply(const std::string& instance,
                        const CacheChange& change) {
  MutexLock lock(mu_);
  absl::flat_hash_set<uint64_t>& blocks = blocks_[instance];
  if (change.cleared) {
    num_blocks_ -= blocks.size();
    blocks.clear();
  }
  for (uint64_t hash : change.stored) {
    if (num_blocks_ >= max_blocks_) break;
    num_blocks_ += blocks.insert(hash).second;
  }
  for (uint64_t hash : change.removed) num_blocks_ -= blocks.erase(hash);
}

void PrefixIndex::Remove(absl::string_view instance) {
  MutexLock lock(mu_);
  auto it = blocks_.find(instance);
  if (it == blocks_.end()) return;
  num_blocks_ -= it->second.size();
  blocks_.erase(it);
}

size_t PrefixIndex::MatchBlocks(absl::string_view instance,
                                absl::Span<const uint64_t> hashes) const {
  MutexLock lock(mu_);
  auto it = blocks_.find(instance);
  if (it == blocks_.end()) return 0;
  size_t n = 0;
  while (n < hashes.size() && it->second.contains(hashes[n])) ++n;
  return n;
}

size_t PrefixIndex::num_blocks() const {
  MutexLock lock(mu_);
  return num_blocks_;
}

size_t PrefixIndex::size_bytes() const {
  MutexLock lock(mu_);
  size_t bytes = 0;
  for (const auto& [instance, blocks] : blocks_) {
    bytes += instance.capacity() + blocks.capacity() * 9;
  }
  return bytes;
}

}  // namespace sluice::router
