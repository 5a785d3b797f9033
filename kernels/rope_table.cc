#include "kernels/rope_table.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/exact_math.h"

namespace sluice::kernels {
namespace {

constexpr double kTwoPi = 6.283185307179586476925;

// The dimension at which `rotations` turns fit into `original` positions
// (attention specification section 7.2).
double YarnDimension(const RopeParams& params, double rotations) {
  const double original = static_cast<double>(params.original_positions);
  return static_cast<double>(params.rot) *
         ExactLog(original / (kTwoPi * rotations)) /
         (2.0 * ExactLog(params.base));
}

double YarnFrequency(const RopeParams& params, int64_t i, double f) {
  const double low =
      std::max(std::floor(YarnDimension(params, params.beta_fast)), 0.0);
  double high = std::min(std::ceil(YarnDimension(params, params.beta_slow)),
                         static_cast<double>(params.rot - 1));
  if (high == low) high += 0.001;
  const double ramp =
      std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return (f / params.factor) * ramp + f * (1.0 - ramp);
}

double Llama3Frequency(const RopeParams& params, double f) {
  const double wavelength = kTwoPi / f;
  const double original = static_cast<double>(params.original_positions);
  if (wavelength < original / params.high_freq_factor) return f;
  if (wavelength > original / params.low_freq_factor) return f / params.factor;
  const double smooth = (original / wavelength - params.low_freq_factor) /
                        (params.high_freq_factor - params.low_freq_factor);
  return (1.0 - smooth) * (f / params.factor) + smooth * f;
}

}  // namespace

std::vector<double> RopeTableStorage::Frequencies(const RopeParams& params) {
  SLUICE_CHECK(params.rot >= 0 && params.rot % 2 == 0 && params.base > 1);
  SLUICE_CHECK(params.divisors.empty() ||
               static_cast<int64_t>(params.divisors.size()) == params.rot / 2);
  std::vector<double> frequencies(params.rot / 2);
  const double log_base = ExactLog(params.base);
  for (int64_t i = 0; i < params.rot / 2; ++i) {
    const double share =
        static_cast<double>(2 * i) / static_cast<double>(params.rot);
    double f = ExactExp(-share * log_base);
    if (!params.divisors.empty()) f /= params.divisors[i];
    switch (params.scaling) {
      case RopeScaling::kNone:
        frequencies[i] = f;
        break;
      case RopeScaling::kLinear:
        frequencies[i] = f / params.factor;
        break;
      case RopeScaling::kLlama3:
        frequencies[i] = Llama3Frequency(params, f);
        break;
      case RopeScaling::kYarn:
        frequencies[i] = YarnFrequency(params, i, f);
        break;
    }
  }
  return frequencies;
}

RopeTableStorage::RopeTableStorage(const RopeParams& params, int64_t positions)
    : positions_(positions), rot_(params.rot) {
  SLUICE_CHECK(positions >= 0);
  const std::vector<double> frequencies = Frequencies(params);
  cos_.reserve(positions * frequencies.size());
  sin_.reserve(positions * frequencies.size());
  for (int64_t p = 0; p < positions; ++p) {
    for (const double f : frequencies) {
      const SineCosine at = ExactSineCosine(static_cast<double>(p) * f);
      cos_.push_back(static_cast<float>(at.cosine * params.attention_factor));
      sin_.push_back(static_cast<float>(at.sine * params.attention_factor));
    }
  }
}

double YarnAttentionFactor(double factor) {
  return factor <= 1 ? 1.0 : 0.1 * ExactLog(factor) + 1.0;
}

}  // namespace sluice::kernels
