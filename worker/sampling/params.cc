#include "worker/sampling/params.h"

#include <algorithm>

namespace sluice::worker {

SamplingParams MakeSamplingParams(const v1::SamplingParams& params,
                                  uint64_t seed, const PromptRoom& room) {
  SamplingParams made;
  if (params.has_temperature()) made.temperature = params.temperature();
  // -1 arrives as the largest unsigned value.
  if (static_cast<int32_t>(params.top_k()) > 0) {
    made.top_k = static_cast<int32_t>(params.top_k());
  }
  if (params.has_top_p()) made.top_p = params.top_p();
  made.min_p = params.min_p();
  if (params.has_repetition_penalty()) {
    made.repetition_penalty = params.repetition_penalty();
  }
  made.frequency_penalty = params.frequency_penalty();
  made.presence_penalty = params.presence_penalty();
  for (const auto& [token, bias] : params.logit_bias()) {
    made.logit_bias.push_back({token, bias});
  }
  // A protobuf map has no order; equal requests shall look equal in a log.
  std::sort(made.logit_bias.begin(), made.logit_bias.end(),
            [](const auto& a, const auto& b) { return a.token < b.token; });

  const uint32_t left = room.model_length > room.prompt_tokens
                            ? room.model_length - room.prompt_tokens
                            : 1;
  const uint32_t wanted = params.has_max_tokens() ? params.max_tokens() : left;
  made.max_tokens = static_cast<int32_t>(std::min(wanted, left));
  made.min_tokens = static_cast<int32_t>(params.min_tokens());
  made.stop_token_ids.assign(params.stop_token_ids().begin(),
                             params.stop_token_ids().end());
  made.ignore_eos = params.ignore_eos();
  if (params.has_n()) made.n = static_cast<int32_t>(params.n());
  if (params.has_logprobs()) made.logprobs = params.logprobs();
  if (params.has_prompt_logprobs()) {
    made.prompt_logprobs = params.prompt_logprobs();
  }
  made.seed = seed;
  return made;
}

}  // namespace sluice::worker
