#ifndef KVTRANSFER_REGION_TABLE_H_
#define KVTRANSFER_REGION_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::kvtransfer {

// The KV memory of this process that transfers read and write: one mapping
// that holds the groups of every rank at their base addresses.
struct Region {
  std::string key;            // opaque name, new per process start
  std::byte* base = nullptr;  // our writable mapping
  uint64_t size_bytes = 0;
  // Of the pool: "host", or the device it lies on as in GroupManifest.
  std::string memory_kind = "host";
  int fd = -1;                // sealed memfd behind it, -1: private memory
  uint64_t probe_offset = 0;  // of 8 bytes a reader checks; in the file only
  uint64_t probe_value = 0;
};

// The regions of this generation and how many operations touch each.
// Transfer thread only. Never frees memory: the owner of a region does, after
// Deregister(). A second registration or an undrained removal is a CHECK.
class RegionTable {
 public:
  RegionTable() = default;
  ~RegionTable();
  RegionTable(const RegionTable&) = delete;
  RegionTable& operator=(const RegionTable&) = delete;

  // kInvalidArgument: no key, no memory, a size that overflows, an overlap
  // with another region.
  absl::Status Register(const Region& region);
  void Deregister(const std::string& key);

  // kInvalidArgument for an unknown key: it came from a peer.
  absl::StatusOr<const Region*> Find(const std::string& key) const;

  // Our own address arithmetic: outside the region is a CHECK.
  std::byte* At(const std::string& key, uint64_t offset, uint64_t size_bytes);
  // The same for numbers a peer sent: kInvalidArgument, overflow-checked.
  absl::Status CheckRange(const std::string& key, uint64_t offset,
                          uint64_t size_bytes) const;

  void StartOperation(const std::string& key);
  void EndOperation(const std::string& key);

  size_t size() const { return entries_.size(); }
  // CHECKs that regions are disjoint and no count is negative.
  void CheckInvariants() const;

 private:
  struct Entry {
    Region region;
    int64_t open_operations = 0;
  };
  Entry& EntryOf(const std::string& key);

  std::vector<Entry> entries_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_REGION_TABLE_H_
