#ifndef WORKER_SAMPLING_SAMPLING_PARAMS_H_
#define WORKER_SAMPLING_SAMPLING_PARAMS_H_

#include <cstdint>
#include <vector>

#include "kernels/sample.h"

namespace sluice::worker {

using TokenId = int32_t;

// Sampling parameters after the checks of proto/sampling_check.h, with every
// default filled in.
struct SamplingParams {
  float temperature = 1;
  int32_t top_k = 0;  // 0: no limit
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  std::vector<kernels::TokenBias> logit_bias;
  int32_t max_tokens = 1;  // >= 1
  int32_t min_tokens = 0;
  std::vector<TokenId> stop_token_ids;
  bool ignore_eos = false;
  int32_t n = 1;
  int32_t logprobs = -1;         // alternatives per token; -1: none asked
  int32_t prompt_logprobs = -1;  // likewise per prompt position
  uint64_t seed = 0;             // of choice 0
};

}  // namespace sluice::worker

#endif  // WORKER_SAMPLING_SAMPLING_PARAMS_H_
