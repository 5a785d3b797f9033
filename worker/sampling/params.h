#ifndef WORKER_SAMPLING_PARAMS_H_
#define WORKER_SAMPLING_PARAMS_H_

#include <cstdint>

#include "proto/inference.pb.h"
#include "worker/sampling/sampling_params.h"

namespace sluice::worker {

// What the default of max_tokens is made of.
struct PromptRoom {
  uint32_t prompt_tokens = 0;
  uint32_t model_length = 0;  // tokens
};

// `params`, which CheckSampling() accepted, with every default filled in.
// max_tokens is at most the room the prompt leaves, and at least 1. Stop
// strings and what concerns text stay behind: they are the router's.
SamplingParams MakeSamplingParams(const v1::SamplingParams& params,
                                  uint64_t seed, const PromptRoom& room);

}  // namespace sluice::worker

#endif  // WORKER_SAMPLING_PARAMS_H_
