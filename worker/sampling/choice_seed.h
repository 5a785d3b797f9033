#ifndef WORKER_SAMPLING_CHOICE_SEED_H_
#define WORKER_SAMPLING_CHOICE_SEED_H_

#include <cstdint>

namespace sluice::worker {

// Seed of choice `choice` of a request with `seed` (sampling specification
// section 5.3): choice 0 keeps it, the others get the SplitMix64 finaliser.
inline uint64_t ChoiceSeed(uint64_t seed, uint32_t choice) {
  if (choice == 0) return seed;
  uint64_t z = seed + choice * 0x9E3779B97F4A7C15u;
  z ^= z >> 30;
  z *= 0xBF58476D1CE4E5B9u;
  z ^= z >> 27;
  z *= 0x94D049BB133111EBu;
  z ^= z >> 31;
  return z;
}

}  // namespace sluice::worker

#endif  // WORKER_SAMPLING_CHOICE_SEED_H_
