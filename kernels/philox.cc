#include "kernels/philox.h"

#include <algorithm>
#include <cstring>

namespace sluice::kernels {
namespace {

constexpr uint32_t kMultiplier0 = 0xd2511f53;
constexpr uint32_t kMultiplier1 = 0xcd9e8d57;
constexpr uint32_t kWeyl0 = 0x9e3779b9;
constexpr uint32_t kWeyl1 = 0xbb67ae85;

// ln(1 + f) = 2 atanh(s), s = f / (2 + f), in two parts; |f| <= sqrt(2) - 1.
struct LnParts {
  float head;  // 2 s
  float tail;  // the rest of the series
};

LnParts LnOfOnePlus(float f) {
  const float s = f / (2.0f + f);
  const float z = s * s;
  float series = 0x1.3b13b2p-3f;         // 2/13
  series = 0x1.745d18p-3f + z * series;  // 2/11
  series = 0x1.c71c72p-3f + z * series;  // 2/9
  series = 0x1.24924ap-2f + z * series;  // 2/7
  series = 0x1.99999ap-2f + z * series;  // 2/5
  series = 0x1.555556p-1f + z * series;  // 2/3
  return {.head = 2.0f * s, .tail = s * (z * series)};
}

// ln x, x > 0 and normal.
float Ln(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  // Mantissa in [sqrt(1/2), sqrt(2)).
  constexpr uint32_t kRootHalf = 0x3f3504f3;
  const int32_t n = static_cast<int32_t>(bits - kRootHalf) >> 23;
  const uint32_t mantissa_bits = bits - (static_cast<uint32_t>(n) << 23);
  float m;
  std::memcpy(&m, &mantissa_bits, sizeof(m));
  const LnParts ln = LnOfOnePlus(m - 1.0f);
  const float exponent = static_cast<float>(n);
  // The high part of ln 2 has 15 bits, so its product is exact.
  const float low = exponent * 0x1.7f7d1cp-20f + ln.tail;
  return exponent * 0x1.62e4p-1f + (ln.head + low);
}

// -ln(1 - v), 0 < v <= 1 - 2^-24.
float NegativeLnOfOneMinus(float v) {
  // 1 - v would lose the low bits of a small v.
  if (v < 0.25f) {
    const LnParts ln = LnOfOnePlus(-v);
    return -(ln.head + ln.tail);
  }
  return -Ln(1.0f - v);
}

}  // namespace

std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 2>& key,
                                   const std::array<uint32_t, 4>& counter) {
  uint32_t k0 = key[0];
  uint32_t k1 = key[1];
  std::array<uint32_t, 4> x = counter;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * x[0];
    const uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * x[2];
    x = {static_cast<uint32_t>(p1 >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ x[3] ^ k1,
         static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return x;
}

std::array<uint32_t, 4> RandomWords(const RandomStream& stream, uint32_t quad) {
  const uint64_t position = static_cast<uint64_t>(stream.position);
  return Philox4x32(
      {static_cast<uint32_t>(stream.seed),
       static_cast<uint32_t>(stream.seed >> 32)},
      {quad, static_cast<uint32_t>(stream.purpose),
       static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32)});
}

uint32_t RandomWord(const RandomStream& stream, uint32_t lane) {
  return RandomWords(stream, lane / 4)[lane % 4];
}

float Coin(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

float Noise(uint32_t word) {
  const float v =
      std::min((static_cast<float>(word) + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
  return -Ln(NegativeLnOfOneMinus(v));
}

uint64_t SeedOfChoice(uint64_t seed, uint64_t choice) {
  if (choice == 0) return seed;
  uint64_t z = seed + choice * 0x9e3779b97f4a7c15;
  z ^= z >> 30;
  z *= 0xbf58476d1ce4e5b9;
  z ^= z >> 27;
  z *= 0x94d049bb133111eb;
  z ^= z >> 31;
  return z;
}

}  // namespace sluice::kernels
