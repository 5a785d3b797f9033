#include "router/flow/deadline.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/clock.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

class Target final : public TimerTarget {
 public:
  explicit Target(std::vector<int>* order, int id) : order_(order), id_(id) {}
  void OnTimer(int64_t) override { order_->push_back(id_); }

 private:
  std::vector<int>* const order_;
  const int id_;
};

TEST(TimerQueueTest, RunsDueTargetsInOrder) {
  FakeClock clock;
  TimerQueue timers(clock);
  std::vector<int> order;
  std::vector<std::shared_ptr<Target>> targets;
  std::vector<TimerQueue::Key> keys;
  const int64_t now_us = clock.NowMicros();
  for (int i = 0; i < 5; ++i) {
    targets.push_back(std::make_shared<Target>(&order, i));
    keys.push_back(timers.Schedule(now_us + (5 - i) * 1000, targets.back()));
  }
  timers.RunDue();
  EXPECT_TRUE(order.empty());
  timers.Cancel(keys[3]);
  targets[2] = nullptr;  // gone
  clock.AdvanceMs(4);
  timers.RunDue();
  EXPECT_EQ(order, (std::vector<int>{4, 1}));
  clock.AdvanceMs(10);
  timers.RunDue();
  EXPECT_EQ(order, (std::vector<int>{4, 1, 0}));
  EXPECT_EQ(timers.size(), 0u);
  timers.Cancel(keys[0]);  // has run: no error
}

class Flag final : public TimerTarget {
 public:
  void OnTimer(int64_t) override { rung = true; }
  std::atomic<bool> rung{false};
};

TEST(TimerQueueTest, ThreadWakesForAnEarlierOne) {
  TimerQueue timers(SystemClock::Get());
  timers.Start();
  auto late = std::make_shared<Flag>();
  auto soon = std::make_shared<Flag>();
  const int64_t now_us = SystemClock::Get().NowMicros();
  timers.Schedule(now_us + 600'000'000, late);
  timers.Schedule(now_us + 5'000, soon);
  EXPECT_TRUE(Eventually([&] { return soon->rung.load(); }));
  EXPECT_FALSE(late->rung);
  timers.Stop();
}

}  // namespace
}  // namespace sluice::router
