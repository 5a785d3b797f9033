#ifndef KERNELS_PHILOX_H_
#define KERNELS_PHILOX_H_

#include <array>
#include <cstdint>

namespace sluice::kernels {

// The random numbers of sampling (sampling specification section 5): Philox
// 4x32-10 keyed by (seed, position, purpose, lane) and nothing else, so a draw
// does not depend on batch, rank, step or time.

enum class RandomPurpose : uint32_t {
  kSample = 0,     // lane: token id
  kDraft = 1,      // lane: token id
  kAccept = 2,     // lane 0
  kRecover = 3,    // lane: token id
  kSynthetic = 4,  // lane 0
};

// What all lanes of one draw share.
struct RandomStream {
  uint64_t seed = 0;
  int64_t position = 0;
  RandomPurpose purpose = RandomPurpose::kSample;
};

// The generator itself: 4 words for one 128-bit counter.
std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 2>& key,
                                   const std::array<uint32_t, 4>& counter);

// Words of lanes 4 * quad .. 4 * quad + 3.
std::array<uint32_t, 4> RandomWords(const RandomStream& stream, uint32_t quad);
uint32_t RandomWord(const RandomStream& stream, uint32_t lane);

// ((word >> 9) + 0.5) * 2^-23, inside (0, 1), exact.
float Coin(uint32_t word);

// Gumbel noise -ln(-ln(1 - v)), v = min((f32(word) + 0.5) * 2^-32, 1 - 2^-24);
// in [-2.8116, 22.8739], within 2^-18 of f64. f32 + - * / and bit operations
// only.
float Noise(uint32_t word);

// Seed of choice `choice` of `n`: the seed itself for choice 0.
uint64_t SeedOfChoice(uint64_t seed, uint64_t choice);

}  // namespace sluice::kernels

#endif  // KERNELS_PHILOX_H_
