#ifndef WORKER_ENGINE_TOKEN_SINK_H_
#define WORKER_ENGINE_TOKEN_SINK_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/request.h"

namespace sluice::worker {

struct TokenLogprobs {
  TokenId token = 0;
  float logprob = 0;
  std::vector<kernels::TopLogprob> top;
};

enum class FinishReason : uint8_t { kStop, kLength, kAbort };

struct ChoiceEnding {
  uint32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  TokenId stop_token = -1;  // EOS or stop token that ended it, or -1
  uint32_t positions = 0;   // tokens generated
};

struct TokenRun {
  uint32_t choice = 0;
  uint32_t first_position = 0;  // output position of tokens[0]
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;  // empty, or one a token
};

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;      // found in this worker's prefix cache
  uint32_t completion_tokens = 0;  // over all choices
};

// Where the engine puts a request's output. Called on the engine thread, in
// this order; must not block. After OnFinished() nothing else is called.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // Planned for the first time (kDecode: blocks reserved).
  virtual void OnStarted(uint32_t cached_tokens) = 0;
  // Position p >= 1 of the prompt at index p - 1; before any token.
  virtual void OnPromptLogprobs(std::vector<TokenLogprobs> positions) = 0;
  virtual void OnTokens(TokenRun run) = 0;
  virtual void OnPreempted() = 0;
  virtual void OnChoiceEnded(const ChoiceEnding& ending) = 0;
  // Exactly once for every submitted request.
  virtual void OnFinished(const absl::Status& status, const Usage& usage) = 0;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_TOKEN_SINK_H_
