#include "base/live_count.h"

#include <chrono>
#include <memory>
#include <thread>

#include "gtest/gtest.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;

struct SlowToGo {
  explicit SlowToGo(bool& gone) : gone(gone) {}
  ~SlowToGo() {
    std::this_thread::sleep_for(milliseconds(20));
    gone = true;
  }
  bool& gone;
};

struct Holder {
  Holder(const LiveCount& count, bool& gone) : member(count), slow(gone) {}
  LiveCount::Member member;
  SlowToGo slow;
};

TEST(LiveCountTest, WaitsForTheEndOfTheLastDestructor) {
  const LiveCount count;
  EXPECT_TRUE(count.AwaitNone(milliseconds(0)));
  bool gone = false;
  auto holder = std::make_unique<Holder>(count, gone);
  auto other = std::make_unique<LiveCount::Member>(count);
  EXPECT_FALSE(count.AwaitNone(milliseconds(5)));
  other.reset();
  EXPECT_FALSE(count.AwaitNone(milliseconds(5)));
  std::jthread thread([&holder] { holder.reset(); });
  ASSERT_TRUE(count.AwaitNone(milliseconds(60'000)));
  EXPECT_TRUE(gone);
}

TEST(LiveCountTest, MembersMayOutliveTheCount) {
  auto count = std::make_unique<LiveCount>();
  const LiveCount::Member member(*count);
  count.reset();
}

}  // namespace
}  // namespace sluice
