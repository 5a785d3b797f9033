#include "router/flow/wait_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace sluice::router {
namespace {

std::vector<uint64_t> Drain(WaitQueue& queue) {
  std::vector<uint64_t> order;
  while (const WaitEntry* next = queue.Next()) {
    order.push_back(next->id);
    queue.Remove(next->id);
  }
  return order;
}

TEST(WaitQueueTest, PriorityThenDeadlineThenArrival) {
  WaitQueue queue({});
  queue.Push({.id = 1, .priority = 0, .deadline_us = 50, .tokens = 1});
  queue.Push({.id = 2, .priority = 0, .deadline_us = 40, .tokens = 1});
  queue.Push({.id = 3, .priority = -1, .deadline_us = 90, .tokens = 1});
  queue.Push({.id = 4, .priority = 0, .deadline_us = 40, .tokens = 1});
  queue.Push({.id = 5, .priority = 7, .deadline_us = 1, .tokens = 1});
  EXPECT_EQ(Drain(queue), (std::vector<uint64_t>{3, 2, 4, 1, 5}));
}

TEST(WaitQueueTest, BoundsByCountTokensAndBytes) {
  WaitQueue queue({.max_requests = 3, .max_bytes = 100, .max_tokens = 10});
  // Alone anything may wait, or it never could.
  EXPECT_TRUE(queue.HasRoom(1000, 1000));
  queue.Push({.id = 1, .tokens = 5, .bytes = 50});
  EXPECT_TRUE(queue.HasRoom(5, 50));
  EXPECT_FALSE(queue.HasRoom(6, 0));
  EXPECT_FALSE(queue.HasRoom(0, 51));
  queue.Push({.id = 2});
  queue.Push({.id = 3});
  EXPECT_FALSE(queue.HasRoom(0, 0));
  EXPECT_TRUE(queue.Remove(2));
  EXPECT_FALSE(queue.Remove(2));
  EXPECT_TRUE(queue.HasRoom(0, 0));
  EXPECT_EQ(queue.tokens(), 5u);
  EXPECT_EQ(queue.bytes(), 50u);
}

TEST(WaitQueueTest, TenantsShareByTokens) {
  WaitQueue queue({});
  uint64_t id = 0;
  std::map<uint64_t, std::string> tenant_of;
  // One tenant has ten times the requests, another four times their size.
  for (int i = 0; i < 1000; ++i) {
    tenant_of[++id] = "many";
    queue.Push({.id = id, .tenant = "many", .tokens = 500});
  }
  for (int i = 0; i < 100; ++i) {
    tenant_of[++id] = "large";
    queue.Push({.id = id, .tenant = "large", .tokens = 2000});
    tenant_of[++id] = "small";
    queue.Push({.id = id, .tenant = "small", .tokens = 500});
  }
  std::map<std::string, uint64_t> served;
  for (int i = 0; i < 120; ++i) {
    const WaitEntry* next = queue.Next();
    served[tenant_of[next->id]] += next->tokens;
    queue.Remove(next->id);
  }
  for (const char* name : {"many", "large", "small"}) {
    EXPECT_GT(served[name], 20'000u) << name;
    EXPECT_LT(served[name], 40'000u) << name;
  }
}

TEST(WaitQueueTest, NextIsStable) {
  WaitQueue queue({});
  queue.Push({.id = 1, .tenant = "a", .tokens = 10'000});
  queue.Push({.id = 2, .tenant = "b", .tokens = 10'000});
  const uint64_t next = queue.Next()->id;
  queue.Push({.id = 3, .tenant = "c", .tokens = 1});
  EXPECT_EQ(queue.Next()->id, next);
  EXPECT_EQ(queue.Next()->id, next);
}

TEST(WaitQueueTest, OldestIsTold) {
  WaitQueue queue({});
  EXPECT_EQ(queue.oldest_since_us(), 0);
  queue.Push({.id = 1, .priority = -5, .since_us = 30});
  queue.Push({.id = 2, .priority = 5, .since_us = 20});
  EXPECT_EQ(queue.oldest_since_us(), 20);
}

}  // namespace
}  // namespace sluice::router
