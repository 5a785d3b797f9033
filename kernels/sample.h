#ifndef KERNELS_SAMPLE_H_
#define KERNELS_SAMPLE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// A distinct token of prompt and output; `generated` is 0 for a token that
// only the prompt holds (sampling specification section 4.2).
struct TokenCount {
  int32_t token = -1;  // outside [0, vocab): ignored
  int32_t generated = 0;
};

struct TokenBias {
  int32_t token = 0;
  float bias = 0;
};

enum class SampleStatus : uint8_t {
  kOk = 0,
  kNotFinite = 1,       // NaN or +inf among the logits
  kNothingAllowed = 2,  // no finite logit after the masks
};

// One token to decide. Parameters are those of the sampling specification
// section 2, validated before; a value that switches a step off there does so
// here. Spans are borrowed.
struct SampleRow {
  const float* logits = nullptr;  // [vocab], not modified
  float temperature = 1;          // < 1e-5: greedy
  int32_t top_k = 0;              // <= 0 or > vocab: no limit
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  absl::Span<const TokenCount> counts;
  absl::Span<const TokenBias> bias;
  absl::Span<const int32_t> banned;   // set to -inf (min_tokens)
  const uint32_t* allowed = nullptr;  // [ceil(vocab / 32)] mask, or null
  uint64_t seed = 0;
  int64_t position = 0;  // of the token decided, from the prompt's first
};

// Order of operations, randomness and ties: sampling specification sections
// 3, 5, 6. A row's result depends on that row alone.
//
//   scratch  SampleScratchBytes(vocab, threads), 64-byte aligned
//   tokens   [rows] the token, or -1 when the row failed
//   status   [rows]
struct SampleArgs {
  absl::Span<const SampleRow> rows;
  int64_t vocab = 0;  // 1 .. 2^22
  uint8_t* scratch = nullptr;
  int32_t* tokens = nullptr;
  SampleStatus* status = nullptr;
};
using SampleFn = void (*)(const OpContext&, const SampleArgs&);
int64_t SampleScratchBytes(int64_t vocab, int64_t threads);

struct TopLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// Log-probabilities of unedited logits (sampling specification section 9):
// of `token`, and of the num_top most likely tokens, most likely first, ties
// by lower id.
struct LogprobsRow {
  const float* logits = nullptr;  // [vocab]
  int32_t token = 0;
  int32_t num_top = 0;        // 0 .. 20
  float* logprob = nullptr;   // out: one value
  TopLogprob* top = nullptr;  // out: [num_top]
};
struct LogprobsArgs {
  absl::Span<const LogprobsRow> rows;
  int64_t vocab = 0;
};
using LogprobsFn = void (*)(const OpContext&, const LogprobsArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_SAMPLE_H_
