#ifndef ROUTER_FLOW_WAIT_QUEUE_H_
#define ROUTER_FLOW_WAIT_QUEUE_H_

#include <cstdint>
#include <list>
#include <map>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace sluice::router {

struct WaitLimits {
  uint64_t max_requests = 4096;
  uint64_t max_bytes = 256u << 20;
  uint64_t max_tokens = 4u << 20;
};

// A waiting request as the queue sees it.
struct WaitEntry {
  uint64_t id = 0;       // unique
  int32_t priority = 0;  // lower is earlier
  std::string tenant;
  int64_t deadline_us = 0;
  int64_t since_us = 0;
  uint64_t tokens = 0;
  uint64_t bytes = 0;
};

// Requests of one model that wait for a credit, in the order they should go:
// by priority, then tenants in turn by deficit round robin over tokens, then
// by deadline, then by arrival. A plain value; the caller locks.
class WaitQueue {
 public:
  explicit WaitQueue(WaitLimits limits) : limits_(limits) {}

  // Room for one more of this size; an empty queue takes any.
  bool HasRoom(uint64_t tokens, uint64_t bytes) const;
  void Push(WaitEntry entry);
  // The next to go; null: empty. Stays valid and stays next until Remove().
  const WaitEntry* Next();
  // False: not here.
  bool Remove(uint64_t id);

  size_t size() const { return by_id_.size(); }
  bool empty() const { return by_id_.empty(); }
  uint64_t tokens() const { return tokens_; }
  uint64_t bytes() const { return bytes_; }
  int64_t oldest_since_us() const;  // 0: empty

 private:
  struct Order {
    int64_t deadline_us;
    uint64_t id;
    bool operator<(const Order& o) const {
      return deadline_us != o.deadline_us ? deadline_us < o.deadline_us
                                          : id < o.id;
    }
  };
  struct Tenant {
    std::string name;
    uint64_t deficit_tokens = 0;
    std::map<Order, WaitEntry> entries;
  };
  // Tenants of one priority; the front is served until its deficit is spent.
  using Ring = std::list<Tenant>;
  struct Place {
    int32_t priority;
    std::string tenant;
    Order order;
  };

  const WaitLimits limits_;
  std::map<int32_t, Ring> rings_;
  absl::flat_hash_map<uint64_t, Place> by_id_;
  uint64_t tokens_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_WAIT_QUEUE_H_
