// What the emulator computes, against values worked by hand and against plain
// loops. Where the CPU has AMX, the same expectations meet the hardware, but
// for those of faults.

#include "tests/kernels/amx_emulator.h"

#include <immintrin.h>
#include <signal.h>

#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/amx_tiles.h"
#include "kernels/quant/bf16.h"

namespace sluice::kernels {
namespace {

class AmxEmulator : public testing::Test {
 protected:
  void SetUp() override {
    if (!AmxRuns()) GTEST_SKIP() << "neither AMX nor AVX-512";
  }
};

// Tile 0 [rows][columns] of 32 bits, 4 [rows][words], 6 [words][columns].
TileConfig Shape(int rows, int words, int columns) {
  TileConfig config;
  const int shapes[3][3] = {
      {0, rows, 4 * columns}, {4, rows, 4 * words}, {6, words, 4 * columns}};
  for (const auto& [tile, height, bytes] : shapes) {
    config.rows[tile] = static_cast<uint8_t>(height);
    config.row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
  return config;
}

struct Block {
  alignas(64) uint8_t bytes[16][64] = {};
  template <typename T>
  T& At(int row, int i) {
    return reinterpret_cast<T*>(bytes[row])[i];
  }
};

enum class Op { kSs, kSu, kUs, kUu, kBf16 };

// c += a * b, all of 64-byte rows in memory.
void Multiply(Op op, const TileConfig& config, Block& c, const Block& a,
              const Block& b) {
  TileScope tiles(config);
  LoadTile<0>(c.bytes, 64);
  LoadTile<4>(a.bytes, 64);
  StreamTile<6>(b.bytes, 64);
  switch (op) {
    case Op::kSs:
      MultiplyInt8<0, 4, 6>();
      break;
    case Op::kSu:
      asm volatile("tdpbsud %%tmm6,%%tmm4,%%tmm0" ::: "memory");
      break;
    case Op::kUs:
      asm volatile("tdpbusd %%tmm6,%%tmm4,%%tmm0" ::: "memory");
      break;
    case Op::kUu:
      asm volatile("tdpbuud %%tmm6,%%tmm4,%%tmm0" ::: "memory");
      break;
    case Op::kBf16:
      MultiplyBf16<0, 4, 6>();
      break;
  }
  StoreTileTo<0>(c.bytes, 64);
}

TEST_F(AmxEmulator, BytesWorkedByHand) {
  const int8_t a[2][4] = {{1, 2, 3, 4}, {-1, -128, 127, 5}};
  const int8_t b[2][4] = {{5, 6, 7, -8}, {-128, 127, 0, 1}};
  Block left;
  Block right;
  std::memcpy(left.bytes[0], a[0], 4);
  std::memcpy(left.bytes[1], a[1], 4);
  std::memcpy(right.bytes[0], b, 8);
  const TileConfig config = Shape(2, 1, 2);
  // 255 for -1, 128 for -128, 248 for -8 where a side is unsigned.
  const struct {
    Op op;
    int32_t want[2][2];
  } cases[] = {{Op::kSs, {{6, 130}, {76, -16123}}},
               {Op::kSu, {{1030, 386}, {1356, -16379}}},
               {Op::kUs, {{6, 130}, {2892, -16379}}},
               {Op::kUu, {{1030, 386}, {4172, 48901}}}};
  for (const auto& c : cases) {
    Block sums;
    sums.At<int32_t>(0, 0) = 100;
    sums.At<int32_t>(1, 1) = -1;
    Multiply(c.op, config, sums, left, right);
    EXPECT_EQ(sums.At<int32_t>(0, 0), c.want[0][0] + 100);
    EXPECT_EQ(sums.At<int32_t>(0, 1), c.want[0][1]);
    EXPECT_EQ(sums.At<int32_t>(1, 0), c.want[1][0]);
    EXPECT_EQ(sums.At<int32_t>(1, 1), c.want[1][1] - 1);
    EXPECT_EQ(sums.At<int32_t>(0, 2), 0);  // not of the tile
    EXPECT_EQ(sums.At<int32_t>(2, 0), 0);
  }
}

// Rows of pairs times a column of pairs, into a start value.
float DotOfPairs(const std::vector<float>& a, const std::vector<float>& b,
                 float start) {
  Block c;
  Block left;
  Block right;
  c.At<float>(0, 0) = start;
  for (size_t i = 0; i < a.size(); ++i) {
    left.At<uint16_t>(0, static_cast<int>(i)) = F32ToBf16(a[i]);
    right.At<uint16_t>(static_cast<int>(i / 2), static_cast<int>(i % 2)) =
        F32ToBf16(b[i]);
  }
  Multiply(Op::kBf16, Shape(1, static_cast<int>(a.size() / 2), 1), c, left,
           right);
  return c.At<float>(0, 0);
}

TEST_F(AmxEmulator, Bf16WorkedByHand) {
  // 2 * 3 + 4 * 5 + 6 * 7 + 8 * 9 + 0.5
  EXPECT_EQ(DotOfPairs({2, 4, 6, 8}, {3, 5, 7, 9}, 0.5f), 140.5f);
  // The chains are apart: 2^24 swallows a 1 of its own chain (a tie, to even),
  // not one of the other.
  EXPECT_EQ(DotOfPairs({0x1p12f, 0, 1, 0}, {0x1p12f, 0, 1, 0}, 0), 0x1p24f);
  EXPECT_EQ(DotOfPairs({0x1p12f, 1, 0, 1}, {0x1p12f, 1, 0, 1}, 0), 0x1p24f + 2);
  // The start value comes last: the chains' sum is rounded before it.
  EXPECT_EQ(DotOfPairs({0x1p12f, 1}, {0x1p12f, 1}, -0x1p24f), 0.0f);
  // The chains are fused: 2^-126 + (-2^-127 rounded alone would be zero).
  EXPECT_EQ(
      DotOfPairs({0x1p-60f, 0, -0x1p-64f, 0}, {0x1p-64f, 0, 0x1p-63f, 0}, 0),
      0x1p-124f - 0x1p-127f);
  // A subnormal product, sum or operand is zero.
  EXPECT_EQ(DotOfPairs({0x1p-64f, 0}, {0x1p-63f, 0}, 0), 0.0f);
  EXPECT_EQ(DotOfPairs({0x1p-127f, 0}, {0x1p127f, 0}, 0), 0.0f);
  EXPECT_EQ(DotOfPairs({0, 0}, {0, 0}, 0x1p-127f), 0.0f);
}

constexpr struct {
  int rows;
  int words;
  int columns;
} kShapes[] = {{16, 16, 16}, {16, 8, 16}, {1, 16, 16}, {7, 3, 5}, {16, 1, 1}};

template <typename A, typename B>
void ExpectBytesEqualLoops(Op op) {
  std::mt19937 random(5);
  for (const auto& [rows, words, columns] : kShapes) {
    Block a;
    Block b;
    Block c;
    for (Block* block : {&a, &b, &c}) {
      for (auto& row : block->bytes) {
        for (uint8_t& byte : row) byte = static_cast<uint8_t>(random());
      }
    }
    Block want = c;
    for (int m = 0; m < rows; ++m) {
      for (int n = 0; n < columns; ++n) {
        int64_t sum = want.At<int32_t>(m, n);
        for (int k = 0; k < 4 * words; ++k) {
          sum += int64_t{a.At<A>(m, k)} * b.At<B>(k / 4, 4 * n + k % 4);
        }
        want.At<int32_t>(m, n) = static_cast<int32_t>(sum);
      }
    }
    Multiply(op, Shape(rows, words, columns), c, a, b);
    EXPECT_EQ(std::memcmp(&c, &want, sizeof(c)), 0) << rows << " " << words;
  }
}

TEST_F(AmxEmulator, BytesEqualLoops) {
  ExpectBytesEqualLoops<int8_t, int8_t>(Op::kSs);
  ExpectBytesEqualLoops<int8_t, uint8_t>(Op::kSu);
  ExpectBytesEqualLoops<uint8_t, int8_t>(Op::kUs);
  ExpectBytesEqualLoops<uint8_t, uint8_t>(Op::kUu);
}

TEST_F(AmxEmulator, Bf16EqualsLoops) {
  std::mt19937 random(6);
  const uint32_t mode = _mm_getcsr();
  for (const auto& [rows, words, columns] : kShapes) {
    for (int least : {1, 55, 110}) {  // exponents: products under- and overflow
      Block a;
      Block b;
      Block c;
      for (int r = 0; r < 16; ++r) {
        for (int i = 0; i < 32; ++i) {
          for (Block* block : {&a, &b}) {
            const uint32_t exponent = least + random() % 30;
            block->At<uint16_t>(r, i) =
                static_cast<uint16_t>((random() & 0x807f) | exponent << 7);
          }
          if (i < 16) c.At<float>(r, i) = std::ldexp(1.0f + r, least - 120);
        }
      }
      Block want = c;
      _mm_setcsr(0x9fc0);
      for (int m = 0; m < rows; ++m) {
        for (int n = 0; n < columns; ++n) {
          volatile float chains[2] = {0, 0};
          for (int k = 0; k < 2 * words; ++k) {
            chains[k % 2] = std::fma(
                Bf16ToF32(a.At<uint16_t>(m, k)),
                Bf16ToF32(b.At<uint16_t>(k / 2, 2 * n + k % 2)), chains[k % 2]);
          }
          volatile float sum = chains[0] + chains[1];
          want.At<float>(m, n) = want.At<float>(m, n) + sum;
        }
      }
      _mm_setcsr(mode);
      Multiply(Op::kBf16, Shape(rows, words, columns), c, a, b);
      EXPECT_EQ(std::memcmp(&c, &want, sizeof(c)), 0)
          << rows << " " << words << " " << least;
    }
  }
  EXPECT_EQ(_mm_getcsr() & 0xffc0u, mode & 0xffc0u);
}

// Every form of an address: strides, a displacement, high registers, %rip.
TEST_F(AmxEmulator, Addresses) {
  alignas(64) static TileConfig config;
  config = Shape(3, 2, 4);
  std::vector<uint8_t> memory(4096);
  for (size_t i = 0; i < memory.size(); ++i) {
    memory[i] = static_cast<uint8_t>(i * 7 + i / 256);
  }
  std::vector<uint8_t> out(512, 0xee);
  TileConfig stored;
  asm volatile(
      "ldtilecfg %3\n"
      "mov %0, %%r13\n"
      "mov $9, %%r12\n"
      "tileloadd 0x40(%%r13,%%r12,8),%%tmm0\n"  // 8-bit displacement, * 8
      "tileloaddt1 0x400(%%r13,%%r12,1),%%tmm4\n"
      "mov %1, %%r9\n"
      "mov $32, %%rdx\n"
      "tilestored %%tmm0,(%%r9,%%rdx,2)\n"
      "tilestored %%tmm4,0x108(%%r9,%%rdx,1)\n"
      "tilezero %%tmm0\n"
      "tilestored %%tmm0,256(%%r9,%%rdx)\n"
      "tilestored %%tmm4,0x108(%%r9,%%rdx,1)\n"
      "sttilecfg (%2)\n"
      "tilerelease\n" ::"r"(memory.data()),
      "r"(out.data()), "r"(&stored), "m"(config)
      : "r9", "r12", "r13", "rdx", "memory");
  EXPECT_EQ(std::memcmp(&stored, &config, sizeof(config)), 0);
  std::vector<uint8_t> want(512, 0xee);
  for (int r = 0; r < 3; ++r) {
    std::memcpy(&want[r * 64], &memory[0x40 + r * 72], 16);
    std::memset(&want[256 + r * 32], 0, 16);
    std::memcpy(&want[0x108 + r * 32], &memory[0x400 + r * 9], 8);
  }
  EXPECT_EQ(out, want);
}

// Rows and bytes past a tile's shape read as zero once it is wider.
TEST_F(AmxEmulator, ConfiguringZeroesTiles) {
  Block ones;
  std::memset(ones.bytes, 1, sizeof(ones.bytes));
  Block out;
  TileScope tiles(Shape(16, 16, 16));
  LoadTile<0>(ones.bytes, 64);
  tiles.Configure(Shape(16, 16, 16));
  std::memset(out.bytes, 2, sizeof(out.bytes));
  StoreTileTo<0>(out.bytes, 64);
  for (const auto& row : out.bytes) {
    for (uint8_t byte : row) ASSERT_EQ(byte, 0);
  }
}

TEST_F(AmxEmulator, EachThreadHasItsTiles) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([t] {
      Block c;
      Block a;
      Block b;
      a.At<int8_t>(0, 0) = 1;
      b.At<int8_t>(0, 0) = static_cast<int8_t>(t + 1);
      for (int i = 0; i < 200; ++i) {
        Multiply(Op::kSs, Shape(1 + t, 1 + t, 1 + t), c, a, b);
      }
      EXPECT_EQ(c.At<int32_t>(0, 0), 200 * (t + 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The registers of what was interrupted come back.
TEST_F(AmxEmulator, KeepsVectorRegisters) {
  alignas(64) uint32_t in[16];
  alignas(64) uint32_t out[16];
  for (uint32_t i = 0; i < 16; ++i) in[i] = 0x01010101 * (i + 1);
  const TileConfig config = Shape(16, 16, 16);
  asm volatile(
      "vmovdqu64 (%0), %%zmm17\n"
      "ldtilecfg (%2)\n"
      "tilezero %%tmm0\n"
      "tdpbf16ps %%tmm6,%%tmm4,%%tmm0\n"
      "tilerelease\n"
      "vmovdqu64 %%zmm17, (%1)\n" ::"r"(in),
      "r"(out), "r"(&config)
      : "memory");
  EXPECT_EQ(std::memcmp(in, out, sizeof(in)), 0);
}

using AmxEmulatorDeathTest = AmxEmulator;

TEST_F(AmxEmulatorDeathTest, WhatHardwareRefusesFails) {
  if (!AmxIsEmulated()) GTEST_SKIP() << "hardware";
  Block block;
  EXPECT_DEATH(LoadTile<0>(block.bytes, 64), "palette == 1");
  EXPECT_DEATH(
      {
        TileScope tiles(Shape(4, 4, 4));
        ZeroTile<1>();
      },
      "rows");
  EXPECT_DEATH(
      {
        TileConfig config = Shape(4, 4, 4);
        config.rows[4] = 3;
        Multiply(Op::kSs, config, block, block, block);
      },
      "c.rows == p.a.rows");
  EXPECT_DEATH(
      {
        TileConfig config = Shape(4, 4, 4);
        config.rows[6] = 3;
        Multiply(Op::kSs, config, block, block, block);
      },
      "p.b.rows");
  EXPECT_DEATH(
      {
        TileScope tiles(Shape(4, 4, 4));
        // tdpbssd %tmm6,%tmm0,%tmm0, which the assembler refuses as well.
        asm volatile(
            ".byte 0xc4\n.byte 0xe2\n.byte 0x4b\n.byte 0x5e\n.byte 0xc0");
      },
      "c != a");
  EXPECT_DEATH(
      {
        TileConfig config = Shape(4, 4, 4);
        config.reserved[3] = 1;
        TileScope tiles(config);
      },
      "byte == 0");
  EXPECT_DEATH({ TileScope tiles(Shape(17, 4, 4)); }, "kMaxRows");
  // Nothing but a tile instruction is taken.
  EXPECT_EXIT(asm volatile("ud2"), testing::KilledBySignal(SIGILL), "");
}

}  // namespace
}  // namespace sluice::kernels
