#ifndef TESTS_KVTRANSFER_TESTING_SHARDED_CACHE_H_
#define TESTS_KVTRANSFER_TESTING_SHARDED_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {

// One group of a model, before it is split over ranks.
struct ModelGroup {
  uint32_t id = 0;
  GroupKind kind = GroupKind::kKeyValue;
  int comps = 2;
  int heads = 4;
  int head_dim = 4;
  KvDtype dtype = KvDtype::kBf16;
  bool may_tile = true;  // takes the side's inner order, else canonical
};

struct CacheModel {
  int layers = 2;
  std::vector<ModelGroup> groups;
};

// K/V of `heads` heads.
CacheModel KeyValueModel(int heads, int head_dim, int layers);
// K/V, latent, rope part, scales, index and draft.
CacheModel AllGroupsModel(int heads, int head_dim, int layers);

// How one side splits it.
struct CacheSplit {
  int ranks = 1;   // of each stage
  int stages = 1;  // layer splits
  int block_tokens = 16;
  InnerOrder order = InnerOrder::kCanonical;
};

// The KV pools of all ranks of one worker, in one region, and the block table
// of one sequence in it. Every element has a value that names its place.
class ShardedCache {
 public:
  // Memory is kUntouched everywhere. Block ids go up by two from `first`.
  ShardedCache(const CacheModel& model, const CacheSplit& split,
               uint32_t num_tokens, uint32_t first);

  static constexpr std::byte kUntouched{0xEE};

  const LayoutManifest& manifest() const { return manifest_; }
  const std::vector<uint32_t>& blocks() const { return blocks_; }
  std::vector<std::byte>& bytes() { return bytes_; }
  PlanSide side() const { return {&manifest_, 0, blocks_}; }

  void Reset();
  // Writes tokens [0, num_tokens), element by element.
  void Fill();
  // Elements of tokens [skip, num_tokens) that are not what Fill() writes, or
  // whose bytes `writes` (one count a byte) says were not written just once.
  size_t CountWrong(uint32_t skip, const std::vector<uint8_t>& writes) const;
  // Blocks changed besides those that hold tokens from `skip` on.
  size_t CountStray(uint32_t skip) const;

 private:
  struct Element {
    uint64_t at;
    uint32_t value;
    uint32_t bytes;
    uint32_t token;
  };

  void Lay(const RankManifest& rank, const GroupManifest& group,
           uint32_t token);

  LayoutManifest manifest_;
  std::vector<uint32_t> blocks_;
  std::vector<std::byte> bytes_;
  std::vector<Element> elements_;  // of the sequence
};

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_SHARDED_CACHE_H_
