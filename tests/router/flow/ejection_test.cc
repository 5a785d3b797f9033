#include "router/flow/ejection.h"

#include <gtest/gtest.h>

#include <string>

#include "base/clock.h"

namespace sluice::router {
namespace {

class EjectionTest : public testing::Test {
 protected:
  void Fail(int times, uint64_t generation = 1) {
    for (int i = 0; i < times; ++i) {
      ejections_.OnFailure("w0", generation, "reset");
    }
  }
  bool Out() const { return ejections_.Now().contains("w0"); }

  FakeClock clock_;
  Ejections ejections_{clock_};
};

TEST_F(EjectionTest, ThreeFailuresWithinTheWindow) {
  Fail(2);
  EXPECT_FALSE(Out());
  clock_.AdvanceMs(10'000);  // the two are forgotten
  Fail(2);
  EXPECT_FALSE(Out());
  clock_.AdvanceMs(9999);
  Fail(1);
  EXPECT_TRUE(Out());
  EXPECT_FALSE(ejections_.Now().contains("w1"));
}

TEST_F(EjectionTest, OneCanaryBringsItBack) {
  Fail(3);
  clock_.AdvanceMs(4999);
  EXPECT_TRUE(Out());
  ejections_.OnSuccess("w0", 1);  // of a request sent before
  EXPECT_TRUE(Out());
  clock_.AdvanceMs(1);
  EXPECT_FALSE(Out());
  ejections_.OnChosen("w0");
  EXPECT_TRUE(Out());  // one is enough
  ejections_.OnSuccess("w0", 1);
  EXPECT_FALSE(Out());
  Fail(2);  // and it begins anew
  EXPECT_FALSE(Out());
}

TEST_F(EjectionTest, TheTermDoublesUpToAMinute) {
  Fail(3);
  for (const int64_t term_ms : {5000, 10'000, 20'000, 40'000, 60'000, 60'000}) {
    clock_.AdvanceMs(term_ms - 1);
    EXPECT_TRUE(Out()) << term_ms;
    clock_.AdvanceMs(1);
    EXPECT_FALSE(Out()) << term_ms;
    ejections_.OnChosen("w0");
    Fail(1);
  }
}

TEST_F(EjectionTest, ALostCanaryIsReplaced) {
  Fail(3);
  clock_.AdvanceMs(5000);
  ejections_.OnChosen("w0");
  clock_.AdvanceMs(4999);
  EXPECT_TRUE(Out());
  clock_.AdvanceMs(1);
  EXPECT_FALSE(Out());
}

TEST_F(EjectionTest, ANewProcessBeginsAnew) {
  Fail(2, 1);
  Fail(1, 2);
  EXPECT_FALSE(Out());
  Fail(2, 2);
  EXPECT_EQ(ejections_.Now().at("w0"), 2u);
  Fail(5, 1);  // of the process that is gone
  EXPECT_EQ(ejections_.Now().at("w0"), 2u);
}

}  // namespace
}  // namespace sluice::router
