#include "kvtransfer/staging_table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice::kvtransfer {

StagingTable::StagingTable(const StagingArea& area, std::string region_key)
    : area_(area),
      region_key_(std::move(region_key)),
      lent_(area.num_slots, false) {
  for (uint32_t slot = area.num_slots; slot > 0; --slot) {
    free_.push_back(slot - 1);
  }
}

std::vector<uint32_t> StagingTable::Lend(size_t count) {
  std::vector<uint32_t> slots;
  while (slots.size() < count && !free_.empty()) {
    slots.push_back(free_.back());
    lent_[free_.back()] = true;
    free_.pop_back();
  }
  return slots;
}

void StagingTable::Return(absl::Span<const uint32_t> slots) {
  for (const uint32_t slot : slots) {
    SLUICE_CHECK(slot < lent_.size() && lent_[slot]);
    lent_[slot] = false;
    free_.push_back(slot);
  }
}

StagingSlot StagingTable::Name(uint32_t slot) const {
  SLUICE_CHECK(slot < lent_.size() && lent_[slot]);
  return {.region_key = region_key_,
          .offset = OffsetOf(slot),
          .size_bytes = area_.slot_bytes};
}

StagingNeed StagingNeedOf(absl::Span<const StreamPlan> streams,
                          uint64_t in_place_bytes) {
  const bool alike = PlanKindOf(streams) == PlanKind::kSame;
  StagingNeed need;
  for (const StreamPlan& stream : streams) {
    need.least_slot_bytes =
        std::max(need.least_slot_bytes,
                 stream.span_tokens() * stream.token_layer_bytes());
    const uint32_t run_tokens =
        std::min(stream.source_block_tokens, stream.target_block_tokens);
    for (const StreamGroup& group : stream.groups) {
      const GroupLayout& layout = group.source.layout;
      const int64_t run_bytes =
          alike ? layout.block_bytes() : layout.token_bytes() * run_tokens;
      need.required = need.required || group.converts();
      need.advised =
          need.advised || static_cast<uint64_t>(run_bytes) < in_place_bytes;
    }
  }
  return need;
}

}  // namespace sluice::kvtransfer
