#include "router/cluster/health.h"

#include <gtest/gtest.h>

namespace sluice::router {
namespace {

using Verdict = StreamHealth::Verdict;

TEST(StreamHealthTest, SilentAfterTheLimitAndBack) {
  StreamHealth health(1000);
  EXPECT_EQ(health.At(0), Verdict::kDown);
  health.OnReport(100);
  EXPECT_EQ(health.At(1099), Verdict::kUp);
  EXPECT_EQ(health.At(1100), Verdict::kSilent);
  EXPECT_EQ(health.silence_ms(1600), 1500);
  health.OnReport(2000);
  EXPECT_EQ(health.At(2001), Verdict::kUp);
}

TEST(StreamHealthTest, RetriesEagerlyThenWithGrowingPausesUpToASecond) {
  StreamHealth health(1000);
  EXPECT_TRUE(health.RetryDue(0));
  EXPECT_FALSE(health.Eager(0));
  int64_t now_ms = 0;
  for (; now_ms < 3000; now_ms += 20) {
    health.OnEnd(now_ms);
    EXPECT_TRUE(health.Eager(now_ms));
    EXPECT_FALSE(health.RetryDue(now_ms + 19));
    EXPECT_TRUE(health.RetryDue(now_ms + 20));
  }
  EXPECT_FALSE(health.Eager(now_ms));
  for (int64_t pause_ms : {50, 100, 200, 400, 800, 1000, 1000}) {
    health.OnEnd(now_ms);
    EXPECT_FALSE(health.RetryDue(now_ms + pause_ms - 1));
    EXPECT_TRUE(health.RetryDue(now_ms + pause_ms));
    now_ms += pause_ms;
  }
  health.OnReport(now_ms);
  EXPECT_FALSE(health.Eager(now_ms));
  health.OnEnd(now_ms);
  EXPECT_TRUE(health.Eager(now_ms));
  EXPECT_TRUE(health.RetryDue(now_ms + 20));
}

}  // namespace
}  // namespace sluice::router
