#include "worker/cache/block_allocator.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::worker {

BlockAllocator::BlockAllocator(uint32_t num_blocks) : nodes_(num_blocks) {
  SLUICE_CHECK(num_blocks >= 2);
  nodes_[0].state = State::kNull;
  for (BlockId block = 1; block < num_blocks; ++block) PushBack(free_, block);
}

absl::Status BlockAllocator::Allocate(uint32_t count,
                                      std::vector<BlockId>& out) {
  if (count > available()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("want ", count, " blocks, ", available(), " available"));
  }
  for (uint32_t i = 0; i < count; ++i) {
    BlockId block = free_.front;
    if (block != 0) {
      Remove(free_, block);
    } else {
      block = cached_.front;
      Remove(cached_, block);
      nodes_[block].hashed = false;
      if (on_evicted_) on_evicted_(block);
    }
    nodes_[block].state = State::kActive;
    nodes_[block].refs = 1;
    ++num_active_;
    out.push_back(block);
  }
  return absl::OkStatus();
}

void BlockAllocator::Ref(BlockId block) {
  Node& node = At(block);
  if (node.state == State::kCached) {
    Remove(cached_, block);
    node.state = State::kActive;
    ++num_active_;
  }
  SLUICE_CHECK(node.state == State::kActive);
  ++node.refs;
}

void BlockAllocator::Unref(BlockId block) {
  Node& node = At(block);
  SLUICE_CHECK(node.state == State::kActive && node.refs > 0);
  if (--node.refs > 0) return;
  --num_active_;
  if (node.hashed) {
    node.state = State::kCached;
    PushBack(cached_, block);
  } else {
    node.state = State::kFree;
    PushFront(free_, block);
  }
}

void BlockAllocator::MarkHashed(BlockId block) {
  Node& node = At(block);
  SLUICE_CHECK(node.state == State::kActive && !node.hashed);
  node.hashed = true;
}

void BlockAllocator::ClearHashed(BlockId block) {
  Node& node = At(block);
  SLUICE_CHECK(node.hashed);
  node.hashed = false;
  if (node.state != State::kCached) return;
  Remove(cached_, block);
  node.state = State::kFree;
  PushBack(free_, block);
}

void BlockAllocator::Quarantine(BlockId block) {
  Node& node = At(block);
  SLUICE_CHECK(node.state == State::kActive && node.refs == 1 && !node.hashed);
  node.refs = 0;
  node.state = State::kQuarantined;
  --num_active_;
  ++num_quarantined_;
}

void BlockAllocator::ReleaseQuarantined(BlockId block) {
  Node& node = At(block);
  SLUICE_CHECK(node.state == State::kQuarantined);
  node.state = State::kFree;
  --num_quarantined_;
  PushFront(free_, block);
}

absl::Status BlockAllocator::CheckInvariants() const {
  uint32_t counts[5] = {};
  for (BlockId block = 0; block < num_blocks(); ++block) {
    const Node& node = nodes_[block];
    ++counts[static_cast<size_t>(node.state)];
    if ((node.refs > 0) != (node.state == State::kActive)) {
      return absl::InternalError(
          absl::StrCat("block ", block, " has ", node.refs,
                       " references in state ", static_cast<int>(node.state)));
    }
    const bool may_hash =
        node.state == State::kActive || node.state == State::kCached;
    if (node.hashed ? !may_hash : node.state == State::kCached) {
      return absl::InternalError(absl::StrCat("block ", block,
                                              ": hash does not fit state ",
                                              static_cast<int>(node.state)));
    }
  }
  for (const List* list : {&free_, &cached_}) {
    const State want = list == &free_ ? State::kFree : State::kCached;
    uint32_t walked = 0;
    for (BlockId b = list->front; b != 0; b = nodes_[b].next, ++walked) {
      if (nodes_[b].state != want || walked > list->size) {
        return absl::InternalError(absl::StrCat("block ", b, " is misplaced"));
      }
    }
    if (walked != list->size || walked != counts[static_cast<size_t>(want)]) {
      return absl::InternalError("a list has lost blocks");
    }
  }
  if (counts[static_cast<size_t>(State::kNull)] != 1 ||
      counts[static_cast<size_t>(State::kActive)] != num_active_ ||
      counts[static_cast<size_t>(State::kQuarantined)] != num_quarantined_) {
    return absl::InternalError("state counts are wrong");
  }
  return absl::OkStatus();
}

BlockAllocator::Node& BlockAllocator::At(BlockId block) {
  SLUICE_CHECK(block > 0 && block < nodes_.size());
  return nodes_[block];
}

void BlockAllocator::PushFront(List& list, BlockId block) {
  nodes_[block].prev = 0;
  nodes_[block].next = list.front;
  (list.front != 0 ? nodes_[list.front].prev : list.back) = block;
  list.front = block;
  ++list.size;
}

void BlockAllocator::PushBack(List& list, BlockId block) {
  nodes_[block].prev = list.back;
  nodes_[block].next = 0;
  (list.back != 0 ? nodes_[list.back].next : list.front) = block;
  list.back = block;
  ++list.size;
}

void BlockAllocator::Remove(List& list, BlockId block) {
  const Node& node = nodes_[block];
  (node.prev != 0 ? nodes_[node.prev].next : list.front) = node.next;
  (node.next != 0 ? nodes_[node.next].prev : list.back) = node.prev;
  --list.size;
}

std::vector<BlockId> BlockAllocator::Walk(const List& list) const {
  std::vector<BlockId> blocks;
  for (BlockId b = list.front; b != 0; b = nodes_[b].next) blocks.push_back(b);
  return blocks;
}

}  // namespace sluice::worker
