// Runs arbitrary allocate / share / hash / release sequences against the
// simplest model that could be right, and checks the invariants after every
// step.

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <vector>

#include "base/check.h"
#include "worker/cache/block_allocator.h"

namespace sluice::worker {
namespace {

constexpr uint32_t kUsable = 15;

void Fuzz(const uint8_t* data, size_t size) {
  BlockAllocator blocks(kUsable + 1);
  std::map<BlockId, uint32_t> active;  // references
  std::vector<BlockId> quarantined;
  for (size_t i = 0; i + 1 < size; i += 2) {
    const auto victim =
        active.empty() ? active.end()
                       : std::next(active.begin(), data[i + 1] % active.size());
    switch (data[i] % 6) {
      case 0: {
        std::vector<BlockId> got;
        const uint32_t count = data[i + 1] % 5;
        const bool fits = count <= blocks.available();
        SLUICE_CHECK(blocks.Allocate(count, got).ok() == fits);
        SLUICE_CHECK(got.size() == (fits ? count : 0));
        for (BlockId b : got) SLUICE_CHECK(active.emplace(b, 1).second);
        break;
      }
      case 1:
        if (victim == active.end()) break;
        blocks.Ref(victim->first);
        ++victim->second;
        break;
      case 2:
        if (victim == active.end() || blocks.hashed(victim->first)) break;
        blocks.MarkHashed(victim->first);
        break;
      case 3:
        if (victim == active.end()) break;
        blocks.Unref(victim->first);
        if (--victim->second == 0) active.erase(victim);
        break;
      case 4:
        if (victim == active.end() || victim->second != 1 ||
            blocks.hashed(victim->first)) {
          break;
        }
        blocks.Quarantine(victim->first);
        quarantined.push_back(victim->first);
        active.erase(victim);
        break;
      case 5:
        if (quarantined.empty()) break;
        blocks.ReleaseQuarantined(quarantined.back());
        quarantined.pop_back();
        break;
    }
    SLUICE_CHECK(blocks.CheckInvariants().ok());
    SLUICE_CHECK(blocks.num_active() == active.size());
    SLUICE_CHECK(blocks.num_quarantined() == quarantined.size());
    SLUICE_CHECK(blocks.num_free() + blocks.num_cached() + active.size() +
                     quarantined.size() ==
                 kUsable);
    for (const auto& [block, refs] : active) {
      SLUICE_CHECK(blocks.refs(block) == refs);
    }
  }
}

}  // namespace
}  // namespace sluice::worker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::worker::Fuzz(data, size);
  return 0;
}
