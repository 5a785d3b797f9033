#ifndef KERNELS_ROPE_TABLE_H_
#define KERNELS_ROPE_TABLE_H_

#include <cstdint>
#include <vector>

#include "kernels/rope.h"

namespace sluice::kernels {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

// Parameters of the angles (attention specification section 7; YaRN:
// arXiv:2309.00071; Llama 3: its published frequency interpolation).
struct RopeParams {
  int64_t rot = 0;  // dimensions rotated, even
  double base = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  double low_freq_factor = 1;      // Llama 3
  double high_freq_factor = 4;     // Llama 3
  int64_t original_positions = 0;  // Llama 3, YaRN
  double beta_fast = 32;           // YaRN
  double beta_slow = 1;            // YaRN
  // Multiplies cos and sin; YaRN models without an explicit factor use
  // 0.1 ln(factor) + 1.
  double attention_factor = 1;
  // Empty, or [rot / 2]: f_i is divided by divisors[i], each > 0, before the
  // scaling above (GGUF's rope_freqs.weight).
  std::vector<double> divisors;
};

// Owns the table of [0, positions). Own exp, log, sin, cos in f64 from + - * /
// only, rounded once to f32, so that every machine has the same bytes; within
// 1e-7 of libm.
class RopeTableStorage {
 public:
  RopeTableStorage(const RopeParams& params, int64_t positions);

  RopeTable view() const {
    return {cos_.data(), sin_.data(), positions_, rot_};
  }

  // Inverse frequencies f_i after scaling, [rot / 2].
  static std::vector<double> Frequencies(const RopeParams& params);

 private:
  int64_t positions_;
  int64_t rot_;
  std::vector<float> cos_;
  std::vector<float> sin_;
};

// 0.1 * ln(factor) + 1, or 1 when factor <= 1: YaRN's default attention
// factor, computed by the same f64 routines.
double YarnAttentionFactor(double factor);

}  // namespace sluice::kernels

#endif  // KERNELS_ROPE_TABLE_H_
