#include "tools/number_flag.h"

#include "gtest/gtest.h"

namespace sluice {
namespace {

TEST(NumberFlag, SetsWhatLiesInItsRange) {
  int rounds = 5;
  int seed = 1;
  const NumberFlag flags[] = {{"--rounds", &rounds, 1, 10},
                              {"--seed", &seed, 0, 1 << 30}};
  EXPECT_TRUE(SetNumberFlag(flags, "--rounds", "10").ok());
  EXPECT_TRUE(SetNumberFlag(flags, "--seed", "0").ok());
  EXPECT_EQ(rounds, 10);
  EXPECT_EQ(seed, 0);
}

TEST(NumberFlag, RefusesWithTheValueAndKeepsWhatWas) {
  int rounds = 5;
  const NumberFlag flags[] = {{"--rounds", &rounds, 1, 10}};
  for (const char* text : {"0", "11", "", "two", "1x", "99999999999"}) {
    const absl::Status status = SetNumberFlag(flags, "--rounds", text);
    EXPECT_EQ(status.message(),
              std::string("--rounds wants a number in [1, 10], got \"") + text +
                  "\"");
  }
  EXPECT_EQ(SetNumberFlag(flags, "--round", "1").message(),
            "unknown flag --round");
  EXPECT_EQ(rounds, 5);
}

}  // namespace
}  // namespace sluice
