#include "kernels/philox.h"

#include <cmath>

#include "gtest/gtest.h"
#include "kernels/reference/sample.h"

namespace sluice::kernels {
namespace {

TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0}, {0, 0, 0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c,
                                     0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xa4093822, 0x299f31d0},
                       {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420,
                                     0x24126ea1}));
}

TEST(Philox, WorkedExample) {
  const uint32_t words[] = {0x67ee6f2c, 0xe55410cc, 0x6c7eca35, 0x557398d3,
                            0xe5dde940, 0x600f6196, 0x8fcdf8f1, 0x2c8ed839};
  const float noise[] = {0.65230f,  -0.81606f, 0.59544f, 0.90101f,
                         -0.82504f, 0.75422f,  0.19245f, 1.65430f};
  for (uint32_t lane = 0; lane < 8; ++lane) {
    const uint32_t word = RandomWord({.seed = 42, .position = 7}, lane);
    EXPECT_EQ(word, words[lane]);
    EXPECT_NEAR(Noise(word), noise[lane], 1e-5);
  }
  EXPECT_EQ(RandomWords({.seed = 42, .position = 8}, 0),
            (std::array<uint32_t, 4>{0x84d69b0c, 0x13847338, 0xb6304e11,
                                     0x7122e8e2}));
  const RandomStream accept = {
      .seed = 42, .position = 7, .purpose = RandomPurpose::kAccept};
  EXPECT_EQ(RandomWord(accept, 0), 0xd48f55fb);
  EXPECT_FLOAT_EQ(Coin(RandomWord(accept, 0)), 0.83031207f);
  EXPECT_NEAR(Noise(0), 22.873857, 1e-5);
  EXPECT_NEAR(Noise(0xffffffff), -2.811541, 1e-5);
  EXPECT_EQ(SeedOfChoice(42, 0), 42u);
  EXPECT_EQ(SeedOfChoice(42, 1), 0xbdd732262feb6e95u);
  EXPECT_EQ(SeedOfChoice(42, 2), 0x28efe333b266f103u);
}

TEST(Philox, EveryPartOfTheCounterAndKeyMatters) {
  const RandomStream stream = {.seed = 1, .position = 1};
  const uint32_t word = RandomWord(stream, 5);
  RandomStream other = stream;
  other.seed = uint64_t{1} << 32 | 1;
  EXPECT_NE(RandomWord(other, 5), word);
  other = stream;
  other.position = int64_t{1} << 32 | 1;
  EXPECT_NE(RandomWord(other, 5), word);
  other = stream;
  other.purpose = RandomPurpose::kDraft;
  EXPECT_NE(RandomWord(other, 5), word);
  EXPECT_NE(RandomWord(stream, 4), word);
  EXPECT_NE(RandomWord(stream, 1), word);
}

void ExpectNoiseBound(uint32_t word) {
  const float noise = Noise(word);
  ASSERT_LE(std::fabs(noise - NoiseF64(word)), 0x1p-18) << word;
  ASSERT_GE(noise, -2.8116f);
  ASSERT_LE(noise, 22.8739f);
}

TEST(Noise, WithinBoundOfFloat64) {
  for (uint64_t word = 0; word < uint64_t{1} << 32; word += 1021) {
    ExpectNoiseBound(static_cast<uint32_t>(word));
  }
  for (uint32_t word = 0; word < 4096; ++word) ExpectNoiseBound(word);
  for (int bit = 0; bit < 32; ++bit) ExpectNoiseBound(uint32_t{1} << bit);
  ExpectNoiseBound(0xffffffff);
}

TEST(Coin, StaysInsideZeroAndOne) {
  EXPECT_EQ(Coin(0), 0x1p-24f);
  EXPECT_EQ(Coin(0xffffffff), 1 - 0x1p-24f);
}

}  // namespace
}  // namespace sluice::kernels
