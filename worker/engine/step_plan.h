#ifndef WORKER_ENGINE_STEP_PLAN_H_
#define WORKER_ENGINE_STEP_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kv_copy.h"
#include "kernels/sample.h"
#include "worker/engine/request.h"
#include "worker/engine/token_sink.h"

namespace sluice::worker {

// A sequence the executor learns of: its sampling state lives there until an
// entry in StepPlan::ends, across preemption.
struct SequenceStart {
  SequenceKey seq = 0;
  std::vector<TokenId> tokens;  // prompt, then tokens generated elsewhere
  uint32_t prompt_tokens = 0;
  uint64_t seed = 0;
  std::shared_ptr<const SamplingParams> sampling;
};

// Stands for the token that the row's sequence draws in the step before: a
// step is launched while that one still runs.
inline constexpr TokenId kDrawnBefore = -1;

// One run of new tokens of one sequence: a chunk of a prompt or one decoded
// token. Position of tokens[j] is kv_before + j.
struct PlanRow {
  SequenceKey seq = 0;
  uint32_t kv_before = 0;       // cache entries valid before the step
  std::vector<TokenId> tokens;  // or one kDrawnBefore
  std::vector<BlockId> blocks;  // cover kv_before + tokens.size() entries
  // Sequences that draw their next token from the last row's logits: none for
  // a chunk that does not end its tokens, n for the prompt of n choices.
  std::vector<SequenceKey> samples;
  // Log-probabilities wanted for the prompt positions this run decides
  // (positions kv_before + 1 ...): alternatives per position, or -1.
  int32_t prompt_logprobs = -1;

  bool drawn_before() const {
    return tokens.size() == 1 && tokens[0] == kDrawnBefore;
  }
};

// One forward pass as a value. Built by the scheduler, executed by every rank,
// written to the step log, replayable.
struct StepPlan {
  uint64_t step = 0;
  std::vector<SequenceStart> starts;           // before the rows
  std::vector<SequenceKey> ends;               // forgotten before the starts
  std::vector<kernels::BlockCopyPair> copies;  // before the rows
  std::vector<PlanRow> rows;

  bool empty() const {
    return rows.empty() && starts.empty() && ends.empty() && copies.empty();
  }
};

struct SampledToken {
  SequenceKey seq = 0;
  TokenId token = -1;
  kernels::SampleStatus status = kernels::SampleStatus::kOk;
  TokenLogprobs logprobs;     // filled when the sequence asked for them
  std::string logits_sha256;  // 32 bytes, only while a step log is written
};

struct PromptLogprobs {
  SequenceKey seq = 0;
  uint32_t first_position = 1;  // prompt position of positions[0]
  std::vector<TokenLogprobs> positions;
};

// In the order of rows and, inside a row, of PlanRow::samples.
struct StepResult {
  std::vector<SampledToken> sampled;
  std::vector<PromptLogprobs> prompt_logprobs;
  int64_t compute_us = 0;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_STEP_PLAN_H_
