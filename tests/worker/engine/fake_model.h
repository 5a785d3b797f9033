#ifndef TESTS_WORKER_ENGINE_FAKE_MODEL_H_
#define TESTS_WORKER_ENGINE_FAKE_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "worker/engine/step_plan.h"

namespace sluice::worker {

// Executes plans over a pretended KV pool that holds token ids. The next token
// is a hash of the tokens found through the row's blocks, of the sequence's
// seed and of its token counts, so a wrong block, copy, chunk or replay changes
// the stream. Breaking an executor's expectations (two rows write one slot, an
// unknown sequence, ...) aborts.
class FakeModel {
 public:
  struct Options {
    uint32_t num_blocks = 0;
    uint32_t block_tokens = 4;
    uint32_t vocab = 1000;
    TokenId eos = -1;     // never drawn by chance
    uint32_t eos_in = 0;  // one draw of this many is eos; 0: none
  };

  explicit FakeModel(const Options& options);

  StepResult Run(const StepPlan& plan);

  // Writes a prompt's KV as a transfer would.
  void Receive(const std::vector<TokenId>& tokens, uint32_t begin,
               const std::vector<BlockId>& blocks);
  // What a sequence with these tokens draws next.
  TokenId Next(uint64_t seed, const std::vector<TokenId>& tokens,
               uint32_t prompt_tokens) const;

  // Overrides a draw: sequence, position -> token or failure.
  std::function<void(SampledToken&, uint32_t position)> edit;

  size_t num_sequences() const { return sequences_.size(); }

 private:
  struct State {
    std::vector<TokenId> tokens;
    uint32_t prompt_tokens = 0;
    uint64_t seed = 0;
    int32_t logprobs = -1;
  };

  void RunRow(const PlanRow& row, std::set<uint64_t>& written,
              StepResult& result);

  Options options_;
  std::vector<TokenId> pool_;  // [blocks * block_tokens], -1: never written
  std::map<SequenceKey, State> sequences_;
  std::set<SequenceKey> ended_;
};

}  // namespace sluice::worker

#endif  // TESTS_WORKER_ENGINE_FAKE_MODEL_H_
