#ifndef WORKER_CACHE_BLOCK_ALLOCATOR_H_
#define WORKER_CACHE_BLOCK_ALLOCATOR_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"

namespace sluice::worker {

using BlockId = uint32_t;  // 0 is the null block

// Which block of a pool is free, cached, active or quarantined, and how many
// owners it has (KV cache specification, sections 2, 4 and 6). Engine thread
// only. Owns no memory and knows no hash, only whether a block has one. A wrong
// block id or an unbalanced release is our bug and aborts. Every operation is
// O(1) per block.
class BlockAllocator {
 public:
  enum class State : uint8_t { kNull, kFree, kCached, kActive, kQuarantined };

  // `num_blocks` counts the null block; at least 2. The first allocation gets
  // blocks 1, 2, 3, ...
  explicit BlockAllocator(uint32_t num_blocks);

  // Told of every cached block that Allocate() takes, before it is handed out.
  void set_on_evicted(std::function<void(BlockId)> on_evicted) {
    on_evicted_ = std::move(on_evicted);
  }

  // Appends `count` blocks with one reference each to `out`: free ones first,
  // then the oldest cached. kResourceExhausted: too few; nothing changed.
  absl::Status Allocate(uint32_t count, std::vector<BlockId>& out);

  // One more owner of an active or cached block.
  void Ref(BlockId block);
  // One owner less. The last leaves the block at the back of the cached order
  // if it is hashed, else at the front of the free list.
  void Unref(BlockId block);

  // The block is active and from now on immutable and findable.
  void MarkHashed(BlockId block);
  // A cached block becomes free, at the back of the list.
  void ClearHashed(BlockId block);

  // The only owner of an unhashed block gives it up while a remote write may
  // still land in it: neither free nor owned until ReleaseQuarantined().
  void Quarantine(BlockId block);
  void ReleaseQuarantined(BlockId block);

  State state(BlockId block) const { return nodes_[block].state; }
  bool hashed(BlockId block) const { return nodes_[block].hashed; }
  uint32_t refs(BlockId block) const { return nodes_[block].refs; }

  uint32_t num_blocks() const { return static_cast<uint32_t>(nodes_.size()); }
  uint32_t usable() const { return num_blocks() - 1; }
  uint32_t num_free() const { return free_.size; }
  uint32_t num_cached() const { return cached_.size; }
  uint32_t num_active() const { return num_active_; }
  uint32_t num_quarantined() const { return num_quarantined_; }
  uint32_t available() const { return free_.size + cached_.size; }

  // Front first. For tests and dumps.
  std::vector<BlockId> FreeList() const { return Walk(free_); }
  std::vector<BlockId> CachedOrder() const { return Walk(cached_); }

  // kInternal naming the first broken rule of section 2 that concerns lists,
  // states and counts.
  absl::Status CheckInvariants() const;

 private:
  struct Node {
    BlockId prev = 0;  // 0: none
    BlockId next = 0;
    uint32_t refs = 0;
    State state = State::kFree;
    bool hashed = false;
  };
  struct List {
    BlockId front = 0;
    BlockId back = 0;
    uint32_t size = 0;
  };

  Node& At(BlockId block);
  void PushFront(List& list, BlockId block);
  void PushBack(List& list, BlockId block);
  void Remove(List& list, BlockId block);
  std::vector<BlockId> Walk(const List& list) const;

  std::vector<Node> nodes_;  // by block id
  List free_;
  List cached_;  // front: evicted next
  uint32_t num_active_ = 0;
  uint32_t num_quarantined_ = 0;
  std::function<void(BlockId)> on_evicted_;
};

}  // namespace sluice::worker

#endif  // WORKER_CACHE_BLOCK_ALLOCATOR_H_
