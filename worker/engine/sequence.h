#ifndef WORKER_ENGINE_SEQUENCE_H_
#define WORKER_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/engine/request.h"

namespace sluice::worker {

// kInvalidArgument: no token, or one outside [0, vocab).
absl::Status CheckPrompt(absl::Span<const TokenId> prompt, uint32_t vocab);

// One choice's progress through its tokens, as numbers only: which positions
// have valid KV, which are being computed. Engine thread; owns no blocks.
// Transitions are those of the speculation specification section 2.3 without
// drafts; a call that breaks their conditions is our bug.
class Sequence {
 public:
  // `tokens`: the prompt, then what was generated elsewhere.
  Sequence(SequenceKey key, std::vector<TokenId> tokens,
           uint32_t prompt_tokens);

  SequenceKey key() const { return key_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  uint32_t prompt_tokens() const { return prompt_tokens_; }  // P
  uint32_t length() const {                                  // L
    return static_cast<uint32_t>(tokens_.size());
  }
  uint32_t generated() const { return length() - prompt_tokens_; }
  // Leading positions whose KV is valid.
  uint32_t target_entries() const { return target_entries_; }  // Ct
  // As above once every launched step is done.
  uint32_t launched_entries() const { return launched_entries_; }
  uint32_t in_flight() const { return in_flight_; }  // launched, not retired
  // Every known token is computed or being computed.
  bool caught_up() const { return launched_entries_ >= length(); }

  // The first `entries` positions come from the prefix cache or a peer.
  void SkipTo(uint32_t entries);
  // The KV of every position came from a peer or from an equal sequence.
  void Receive();
  // A step that computes [launched_entries, end) was launched: up to the known
  // tokens, or one more behind a launched step that draws it.
  void LaunchTo(uint32_t end);
  // The oldest launched step ended at `end`; its KV is valid if `ok`.
  void Retire(uint32_t end, bool ok);
  // The next token is known; every position before it is computed, its own
  // perhaps launched.
  void Append(TokenId token);
  // KV is given up; tokens stay. No step is in flight.
  void Preempt();

  // Tokens appended since the last call, each exactly once.
  absl::Span<const TokenId> TakeEmitted();

  absl::Status CheckInvariants() const;

 private:
  SequenceKey key_;
  std::vector<TokenId> tokens_;
  uint32_t prompt_tokens_;
  uint32_t target_entries_ = 0;
  uint32_t launched_entries_ = 0;
  uint32_t in_flight_ = 0;
  uint32_t emitted_;  // leading tokens already taken
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_SEQUENCE_H_
