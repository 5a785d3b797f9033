#ifndef KERNELS_QUANT_K_SCALES_H_
#define KERNELS_QUANT_K_SCALES_H_

#include <cstdint>

namespace sluice::kernels {

// Scale and minimum of a sub-block of Q4_K or Q5_K, each 0 .. 63.
struct KScale {
  uint8_t scale = 0;
  uint8_t minimum = 0;
};

// Of sub-block j, 0 .. 7, out of the 12 bytes that hold all of a super-block:
// six bits each, those of the later four split over three bytes (GGUF).
inline KScale KScaleAt(const uint8_t* bytes, int j) {
  if (j < 4) {
    return {.scale = static_cast<uint8_t>(bytes[j] & 63),
            .minimum = static_cast<uint8_t>(bytes[j + 4] & 63)};
  }
  const int scale_high = bytes[j - 4] >> 6 << 4;
  const int minimum_high = bytes[j] >> 6 << 4;
  return {.scale = static_cast<uint8_t>((bytes[j + 4] & 15) | scale_high),
          .minimum = static_cast<uint8_t>(bytes[j + 4] >> 4 | minimum_high)};
}

}  // namespace sluice::kernels

#endif  // KERNELS_QUANT_K_SCALES_H_
