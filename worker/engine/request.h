#ifndef WORKER_ENGINE_REQUEST_H_
#define WORKER_ENGINE_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "worker/sampling/sampling_params.h"

namespace sluice::worker {

using BlockId = uint32_t;  // 0 is the null block

// One admitted attempt of a request on this worker; never reused in a process.
using RequestKey = uint64_t;

// One choice of one request, as the executor knows it; never reused.
using SequenceKey = uint64_t;

// What this worker does for a request.
enum class RequestPhase : uint8_t {
  kBoth,     // prefill and decode here
  kPrefill,  // computes the prompt and the first token, then holds the blocks
             // until ReleaseHeld()
  kDecode,   // reserves blocks, waits for RemoteReady(), then decodes
};

// What was asked; immutable after admission.
struct Request {
  RequestKey key = 0;
  std::string id;  // the client-visible id, for messages only
  RequestPhase phase = RequestPhase::kBoth;
  std::vector<TokenId> prompt;
  // Tokens each choice already has from earlier attempts (empty or n lists);
  // `replay_ended[c]` marks choices that are finished.
  std::vector<std::vector<TokenId>> replay;
  std::vector<bool> replay_ended;
  SamplingParams sampling;
  std::string cache_salt;   // "none": no lookup, no commit
  int32_t priority = 0;     // [-100, 100], lower is earlier
  int64_t deadline_us = 0;  // of Clock::NowMicros(); 0: none
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_REQUEST_H_
