#include "kvtransfer/region_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::kvtransfer {

RegionTable::~RegionTable() {
  for (const Entry& entry : entries_) {
    SLUICE_CHECK(entry.open_operations == 0);
  }
}

absl::Status RegionTable::Register(const Region& region) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(region.base);
  if (region.key.empty() || region.base == nullptr || region.size_bytes == 0 ||
      first + region.size_bytes < first) {
    return absl::InvalidArgumentError(
        absl::StrCat("region of ", region.size_bytes, " bytes is malformed"));
  }
  for (const Entry& entry : entries_) {
    SLUICE_CHECK(entry.region.key != region.key);
    const uintptr_t other = reinterpret_cast<uintptr_t>(entry.region.base);
    if (first < other + entry.region.size_bytes &&
        other < first + region.size_bytes) {
      return absl::InvalidArgumentError("region overlaps a registered one");
    }
  }
  entries_.push_back(Entry{region, 0});
  return absl::OkStatus();
}

void RegionTable::Deregister(const std::string& key) {
  SLUICE_CHECK(EntryOf(key).open_operations == 0);
  entries_.erase(std::find_if(
      entries_.begin(), entries_.end(),
      [&](const Entry& entry) { return entry.region.key == key; }));
}

RegionTable::Entry& RegionTable::EntryOf(const std::string& key) {
  for (Entry& entry : entries_) {
    if (entry.region.key == key) return entry;
  }
  SLUICE_CHECK(false && "region not registered");
  std::abort();
}

absl::StatusOr<const Region*> RegionTable::Find(const std::string& key) const {
  for (const Entry& entry : entries_) {
    if (entry.region.key == key) return &entry.region;
  }
  return absl::InvalidArgumentError("unknown region");
}

std::byte* RegionTable::At(const std::string& key, uint64_t offset,
                           uint64_t size_bytes) {
  const Region& region = EntryOf(key).region;
  SLUICE_CHECK(offset <= region.size_bytes &&
               size_bytes <= region.size_bytes - offset);
  return region.base + offset;
}

absl::Status RegionTable::CheckRange(const std::string& key, uint64_t offset,
                                     uint64_t size_bytes) const {
  absl::StatusOr<const Region*> region = Find(key);
  if (!region.ok()) return region.status();
  const uint64_t limit = (*region)->size_bytes;
  if (offset > limit || size_bytes > limit - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("bytes [", offset, ", +", size_bytes,
                     ") are outside a region of ", limit));
  }
  return absl::OkStatus();
}

void RegionTable::StartOperation(const std::string& key) {
  ++EntryOf(key).open_operations;
}

void RegionTable::EndOperation(const std::string& key) {
  Entry& entry = EntryOf(key);
  SLUICE_CHECK(entry.open_operations > 0);
  --entry.open_operations;
}

void RegionTable::CheckInvariants() const {
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Region& a = entries_[i].region;
    SLUICE_CHECK(entries_[i].open_operations >= 0);
    SLUICE_CHECK(a.base != nullptr && a.size_bytes > 0 && !a.key.empty());
    for (size_t j = i + 1; j < entries_.size(); ++j) {
      const Region& b = entries_[j].region;
      SLUICE_CHECK(a.key != b.key);
      SLUICE_CHECK(a.base + a.size_bytes <= b.base ||
                   b.base + b.size_bytes <= a.base);
    }
  }
}

}  // namespace sluice::kvtransfer
