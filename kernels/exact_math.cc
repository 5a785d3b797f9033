#include "kernels/exact_math.h"

#include <cstdint>
#include <cstring>

#include "base/check.h"

namespace sluice::kernels {
namespace {

// Adding and taking away 1.5 * 2^52 rounds to the nearest even integer.
double ToNearest(double x) {
  constexpr double kToInteger = 0x1.8p+52;
  return (x + kToInteger) - kToInteger;
}

uint64_t BitsOf(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

double FromBits(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// ln 2 and pi / 2 in parts: an integer of the expected size times a leading
// part is exact.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kHalfPi1 = 0x1.921fb54p+0;
constexpr double kHalfPi2 = 0x1.10b46p-30;
constexpr double kHalfPi3 = 0x1.1a62633145c07p-54;

// Taylor series of sin and cos for |r| <= pi / 4.
double SineOf(double r) {
  const double z = r * r;
  double sum = 0;
  for (int k = 19; k >= 3; k -= 2) {
    sum = (1.0 - sum) * (z * (1.0 / static_cast<double>(k * (k - 1))));
  }
  return r - r * sum;
}

double CosineOf(double r) {
  const double z = r * r;
  double sum = 0;
  for (int k = 20; k >= 4; k -= 2) {
    sum = (1.0 - sum) * (z * (1.0 / static_cast<double>(k * (k - 1))));
  }
  // 1 - z/2 rounds; what it lost goes back in.
  const double half = 0.5 * z;
  const double head = 1.0 - half;
  return head + (((1.0 - head) - half) + half * sum);
}

}  // namespace

double ExactExp(double x) {
  SLUICE_CHECK(x >= -700 && x <= 700);
  const double n = ToNearest(x * 0x1.71547652b82fep+0);
  const double high = x - n * kLn2High;
  const double low = n * kLn2Low;
  const double r = high - low;
  const double lost = (high - r) - low;
  // exp(r) = 1 + r + r^2/2 + ...; the terms from r^2 on by Horner.
  double sum = 0;
  for (int k = 15; k >= 3; --k) {
    sum = (1.0 + sum) * (r * (1.0 / static_cast<double>(k)));
  }
  const double tail = 0.5 * r * r * (1.0 + sum);
  const double value = 1.0 + (r + (tail + lost));
  const int64_t exponent = static_cast<int64_t>(n);
  return value * FromBits(static_cast<uint64_t>(exponent + 1023) << 52);
}

double ExactLog(double x) {
  SLUICE_CHECK(x >= 0x1p-1022 && x <= 0x1.fffffffffffffp+1023);
  const uint64_t bits = BitsOf(x);
  int64_t n = static_cast<int64_t>(bits >> 52) - 1023;
  double m = FromBits((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m = 0.5 * m;
    n += 1;
  }
  // ln m = 2 atanh(s), s = f / (2 + f); f is exact.
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double sum = 0;
  for (int k = 25; k >= 3; k -= 2) {
    sum = z * (1.0 / static_cast<double>(k) + sum);
  }
  // 2 s = f - s f, so ln m = f - s (f - 2 sum): f alone is exact.
  const double correction = s * (f - 2.0 * sum);
  const double scale = static_cast<double>(n);
  return scale * kLn2High + (f - (correction - scale * kLn2Low));
}

SineCosine ExactSineCosine(double x) {
  SLUICE_CHECK(x >= 0 && x < 0x1p+26);
  const double n = ToNearest(x * 0x1.45f306dc9c883p-1);
  const double r = ((x - n * kHalfPi1) - n * kHalfPi2) - n * kHalfPi3;
  const double sine = SineOf(r);
  const double cosine = CosineOf(r);
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {.sine = sine, .cosine = cosine};
    case 1:
      return {.sine = cosine, .cosine = -sine};
    case 2:
      return {.sine = -sine, .cosine = -cosine};
    default:
      return {.sine = -cosine, .cosine = sine};
  }
}

}  // namespace sluice::kernels
