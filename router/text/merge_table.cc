#include "router/text/merge_table.h"

#include <algorithm>
#include <array>
#include <functional>
#include <queue>

#include "base/check.h"

namespace sluice::router {
namespace {

constexpr uint64_t kEmptyKey = std::numeric_limits<uint64_t>::max();
// Longest list for which scanning all ranks beats a heap.
constexpr size_t kShortSymbols = 64;

uint64_t KeyOf(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 |
         static_cast<uint32_t>(right);
}

// A possible merge of the symbol at `left` with its right neighbour.
struct Candidate {
  uint32_t rank;
  uint32_t left;
  int32_t left_symbol, right_symbol;  // stale if these have changed
  int32_t merged;

  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

MergeTable::MergeTable(size_t num_merges) {
  size_t capacity = 16;
  while (capacity < 2 * num_merges) capacity *= 2;
  slots_.assign(capacity, Slot{kEmptyKey, {kNoRank, -1}});
  mask_ = capacity - 1;
}

size_t MergeTable::SlotOf(uint64_t key) const {
  uint64_t hash = key * 0x9E3779B97F4A7C15u;
  hash ^= hash >> 32;
  size_t slot = static_cast<size_t>(hash) & mask_;
  while (slots_[slot].key != key && slots_[slot].key != kEmptyKey) {
    slot = (slot + 1) & mask_;
  }
  return slot;
}

bool MergeTable::Insert(int32_t left, int32_t right, Merge merge) {
  SLUICE_CHECK(left >= 0 && right >= 0 && merge.rank != kNoRank);
  const uint64_t key = KeyOf(left, right);
  Slot& slot = slots_[SlotOf(key)];
  if (slot.key == key) return false;
  SLUICE_CHECK(2 * ++used_ <= slots_.size());
  slot = {key, merge};
  return true;
}

MergeTable::Merge MergeTable::Find(int32_t left, int32_t right) const {
  return slots_[SlotOf(KeyOf(left, right))].merge;
}

void MergeTable::Apply(std::vector<int32_t>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= kShortSymbols) {
    ApplyShort(symbols);
  } else {
    ApplyLong(symbols);
  }
}

void MergeTable::ApplyShort(std::vector<int32_t>& symbols) const {
  std::array<Merge, kShortSymbols> merges;  // of symbol i with i + 1
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) {
    merges[i] = Find(symbols[i], symbols[i + 1]);
  }
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNoRank) break;
    symbols[best] = merges[best].merged;
    --n;
    for (size_t i = best + 1; i < n; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 1 < n; ++i) merges[i] = merges[i + 1];
    if (best > 0) {
      merges[best - 1] = Find(symbols[best - 1], symbols[best]);
    }
    if (best + 1 < n) merges[best] = Find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(n);
}

void MergeTable::ApplyLong(std::vector<int32_t>& symbols) const {
  constexpr int32_t kGone = -1;
  const size_t n = symbols.size();
  std::vector<uint32_t> previous(n), next(n);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto push = [&](uint32_t left) {
    const uint32_t right = next[left];
    if (right == n) return;
    const Merge merge = Find(symbols[left], symbols[right]);
    if (merge.rank == kNoRank) return;
    queue.push({merge.rank, left, symbols[left], symbols[right], merge.merged});
  };
  for (size_t i = 0; i < n; ++i) {
    previous[i] = static_cast<uint32_t>(i) - 1;  // of 0: never followed
    next[i] = static_cast<uint32_t>(i) + 1;
  }
  for (size_t i = 0; i < n; ++i) push(static_cast<uint32_t>(i));

  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t right = next[top.left];
    if (symbols[top.left] != top.left_symbol || right == n ||
        symbols[right] != top.right_symbol) {
      continue;
    }
    symbols[top.left] = top.merged;
    symbols[right] = kGone;
    next[top.left] = next[right];
    if (next[right] != n) previous[next[right]] = top.left;
    if (top.left > 0) push(previous[top.left]);
    push(top.left);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kGone),
                symbols.end());
}

}  // namespace sluice::router
