#ifndef ROUTER_TEXT_MERGE_TABLE_H_
#define ROUTER_TEXT_MERGE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace sluice::router {

// Which neighbouring symbols merge into which, and in what order. Immutable
// once filled, then thread-safe.
class MergeTable {
 public:
  static constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
  struct Merge {
    uint32_t rank;  // lower merges first; kNoRank: the pair does not merge
    int32_t merged;
  };

  // Room for `num_merges` merges. Symbols are >= 0.
  explicit MergeTable(size_t num_merges = 0);

  // False if the pair is there already. `rank` < kNoRank.
  bool Insert(int32_t left, int32_t right, Merge merge);
  Merge Find(int32_t left, int32_t right) const;

  // Merges neighbours of `symbols` in place until no pair merges: always the
  // lowest rank, the leftmost among equals. O(n log n) for n symbols; short
  // lists take a faster quadratic path.
  void Apply(std::vector<int32_t>& symbols) const;

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  size_t SlotOf(uint64_t key) const;
  void ApplyShort(std::vector<int32_t>& symbols) const;
  void ApplyLong(std::vector<int32_t>& symbols) const;

  std::vector<Slot> slots_;  // open addressing, a power of two
  size_t mask_ = 0;
  size_t used_ = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_MERGE_TABLE_H_
