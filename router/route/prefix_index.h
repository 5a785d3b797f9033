#ifndef ROUTER_ROUTE_PREFIX_INDEX_H_
#define ROUTER_ROUTE_PREFIX_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mutex.h"

namespace sluice::router {

// A change of one worker's prefix cache: `cleared` first, then the others.
// Hashes as in block_hash.h.
struct CacheChange {
  bool cleared = false;
  absl::Span<const uint64_t> stored;
  absl::Span<const uint64_t> removed;
};

// Which blocks each worker's prefix cache holds, as its reports say. It may
// lag behind; a wrong answer costs time, never a wrong token. Thread-safe; the
// control thread writes, requests read. At most `max_blocks` entries in all:
// beyond, new ones are not taken.
class PrefixIndex {
 public:
  explicit PrefixIndex(size_t max_blocks = 4u << 20)
      : max_blocks_(max_blocks) {}

  void Apply(const std::string& instance, const CacheChange& change);
  void Remove(absl::string_view instance);

  // Leading blocks of `hashes` that `instance` holds.
  size_t MatchBlocks(absl::string_view instance,
                     absl::Span<const uint64_t> hashes) const;

  size_t num_blocks() const;
  size_t size_bytes() const;  // about

 private:
  const size_t max_blocks_;
  mutable Mutex mu_;
  size_t num_blocks_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<std::string, absl::flat_hash_set<uint64_t>> blocks_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::router

#endif  // ROUTER_ROUTE_PREFIX_INDEX_H_
