#ifndef KERNELS_CPU_SAMPLE_ROW_H_
#define KERNELS_CPU_SAMPLE_ROW_H_

#include <cstdint>

#include "kernels/philox.h"
#include "kernels/sample.h"

// The parts of sampling that every level shares: edits of single tokens, the
// order of tokens, the cut. Compiled once, for any CPU.

namespace sluice::kernels {

inline constexpr int64_t kSampleBlock = 64;
inline constexpr float kGreedyTemperature = 1e-5f;

// Result of one row.
struct SampleResult {
  int32_t token = -1;
  SampleStatus status = SampleStatus::kOk;
};

// Whether steps 3 to 6 (bias, penalties, bans) change any logit.
bool HasTokenEdits(const SampleRow& row);

// Steps 3 to 6 on a copy of the logits. False when an edit made a logit NaN or
// +inf.
bool ApplyTokenEdits(const SampleRow& row, int64_t vocab, float* x);

// Whether top_k and top_p limit this row.
bool LimitsTopK(const SampleRow& row, int64_t vocab);
bool LimitsTopP(const SampleRow& row);

// ln(min_p) rounded to f32; -inf when min_p is off.
float MinPThreshold(const SampleRow& row);

// Tokens in the order of truncation, z descending then id ascending, are these
// keys ascending. z <= 0, either zero alike.
uint64_t TokenKey(float z, int32_t token);
float KeyZ(uint64_t key);
int32_t KeyToken(uint64_t key);

// trunc(2^40 exp(z)), z <= 0.
uint64_t TokenMass(float z);

// The mass a prefix must reach (step 12).
uint64_t TopPThreshold(float top_p, uint64_t total_mass);

// Puts the first k keys, in any order, before the others; 1 <= k <= n.
void SelectFirst(uint64_t* keys, int64_t n, int64_t k);

// How many of the keys in order make the shortest prefix whose mass, added to
// `mass_before`, reaches `threshold`; all n if none does, at least 1. Reorders
// the keys: that prefix comes first.
int64_t SelectByMass(uint64_t* keys, int64_t n, uint64_t mass_before,
                     uint64_t threshold);

// The k-th largest of n values, which it reorders; 1 <= k <= n, no NaN.
float KthLargest(float* values, int64_t n, int64_t k);

// Step 13 over a few kept tokens.
int32_t DrawFromKeys(const uint64_t* keys, int64_t n,
                     const RandomStream& stream);

// Scratch of one thread, carved from SampleArgs::scratch.
struct SampleScratch {
  float* x = nullptr;           // [vocab rounded up to kSampleBlock]
  float* block_max = nullptr;   // [blocks]
  float* block_copy = nullptr;  // [blocks]
  uint64_t* keys = nullptr;     // [vocab]
};
SampleScratch ScratchOfThread(uint8_t* scratch, int64_t vocab, int thread);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_SAMPLE_ROW_H_
