#include "router/flow/wait_queue.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice::router {
namespace {

constexpr uint64_t kQuantumTokens = 4096;

}  // namespace

bool WaitQueue::HasRoom(uint64_t tokens, uint64_t bytes) const {
  if (empty()) return limits_.max_requests > 0;
  return size() < limits_.max_requests &&
         tokens_ + tokens <= limits_.max_tokens &&
         bytes_ + bytes <= limits_.max_bytes;
}

void WaitQueue::Push(WaitEntry entry) {
  const Order order{.deadline_us = entry.deadline_us, .id = entry.id};
  const auto [where, added] =
      by_id_.emplace(entry.id, Place{.priority = entry.priority,
                                     .tenant = entry.tenant,
                                     .order = order});
  SLUICE_CHECK(added);
  tokens_ += entry.tokens;
  bytes_ += entry.bytes;
  Ring& ring = rings_[entry.priority];
  auto tenant = std::find_if(ring.begin(), ring.end(), [&](const Tenant& t) {
    return t.name == entry.tenant;
  });
  if (tenant == ring.end()) {
    ring.push_back({.name = entry.tenant});
    tenant = std::prev(ring.end());
  }
  tenant->entries.emplace(order, std::move(entry));
}

const WaitEntry* WaitQueue::Next() {
  if (rings_.empty()) return nullptr;
  Ring& ring = rings_.begin()->second;
  // Each turn of the ring adds a quantum to everybody, so this ends.
  while (true) {
    Tenant& tenant = ring.front();
    const WaitEntry& entry = tenant.entries.begin()->second;
    if (ring.size() == 1 || tenant.deficit_tokens >= entry.tokens) {
      tenant.deficit_tokens = std::max(tenant.deficit_tokens, entry.tokens);
      return &entry;
    }
    tenant.deficit_tokens += kQuantumTokens;
    ring.splice(ring.end(), ring, ring.begin());
  }
}

bool WaitQueue::Remove(uint64_t id) {
  auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  const Place place = found->second;
  by_id_.erase(found);
  auto ring = rings_.find(place.priority);
  auto tenant =
      std::find_if(ring->second.begin(), ring->second.end(),
                   [&](const Tenant& t) { return t.name == place.tenant; });
  auto entry = tenant->entries.find(place.order);
  const uint64_t tokens = entry->second.tokens;
  tokens_ -= tokens;
  bytes_ -= entry->second.bytes;
  tenant->entries.erase(entry);
  // Served or gone: either way it no longer waits in this turn.
  tenant->deficit_tokens -= std::min(tenant->deficit_tokens, tokens);
  if (tenant->entries.empty()) ring->second.erase(tenant);
  if (ring->second.empty()) rings_.erase(ring);
  return true;
}

int64_t WaitQueue::oldest_since_us() const {
  int64_t oldest = 0;
  for (const auto& [priority, ring] : rings_) {
    for (const Tenant& tenant : ring) {
      for (const auto& [order, entry] : tenant.entries) {
        if (oldest == 0 || entry.since_us < oldest) oldest = entry.since_us;
      }
    }
  }
  return oldest;
}

}  // namespace sluice::router
