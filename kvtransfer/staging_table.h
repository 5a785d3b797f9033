#ifndef KVTRANSFER_STAGING_TABLE_H_
#define KVTRANSFER_STAGING_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {

// Part of our region, beside the blocks, that sources in put mode gather
// rectangles into. No slots: blocks are written in place only.
struct StagingArea {
  uint64_t offset = 0;  // in the region
  uint64_t slot_bytes = 0;
  uint32_t num_slots = 0;
};

// Which staging slots are lent to transfers. A lent slot may be written by its
// source; it comes back when its transfer completed or is fenced. Transfer
// thread only.
class StagingTable {
 public:
  StagingTable(const StagingArea& area, std::string region_key);

  const StagingArea& area() const { return area_; }
  size_t num_free() const { return free_.size(); }
  // Up to `count` free slots.
  std::vector<uint32_t> Lend(size_t count);
  void Return(absl::Span<const uint32_t> slots);

  uint64_t OffsetOf(uint32_t slot) const {
    return area_.offset + slot * area_.slot_bytes;
  }
  // As a Grant names it.
  StagingSlot Name(uint32_t slot) const;

 private:
  const StagingArea area_;
  const std::string region_key_;
  std::vector<uint32_t> free_;
  std::vector<bool> lent_;
};

// Pure: whether puts of a plan go through staging.
struct StagingNeed {
  bool required = false;          // the inner orders differ
  bool advised = false;           // runs are shorter than `in_place_bytes`
  uint64_t least_slot_bytes = 0;  // one span of one layer of any stream
};
StagingNeed StagingNeedOf(absl::Span<const StreamPlan> streams,
                          uint64_t in_place_bytes);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_STAGING_TABLE_H_
