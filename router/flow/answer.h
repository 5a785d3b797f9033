#ifndef ROUTER_FLOW_ANSWER_H_
#define ROUTER_FLOW_ANSWER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/inference.pb.h"
#include "router/flow/choice_text.h"

namespace sluice::router {

// Everything a request has produced: the tokens of each choice, which replay
// the request elsewhere, and their text. A pure function of the workers'
// events. One thread at a time.
class Answer {
 public:
  Answer() = default;
  static absl::StatusOr<Answer> Create(uint32_t num_choices,
                                       std::shared_ptr<const TextOptions> text);

  // What a worker's event means to the reader; in this order.
  struct Step {
    std::optional<v1::TokenDelta> delta;
    std::optional<v1::ChoiceEnd> end;
  };
  // Tokens already known are dropped, tokens after a stop string are not taken.
  // kDataLoss: a gap, a choice that does not exist, or logprobs that do not fit
  // the tokens.
  absl::StatusOr<Step> Take(v1::TokenDelta delta);
  // kDataLoss: another number of tokens than came.
  absl::StatusOr<Step> Take(v1::ChoiceEnd end);

  bool ended(uint32_t choice) const { return choices_[choice].ended; }
  bool all_ended() const { return num_ended_ == choices_.size(); }
  uint32_t num_tokens() const { return num_tokens_; }  // over all choices
  const std::vector<uint32_t>& tokens(uint32_t choice) const {
    return choices_[choice].tokens;
  }
  // "stop,length,..." by choice; "-" where a choice has not ended.
  std::string FinishReasons() const;

 private:
  struct Choice {
    explicit Choice(ChoiceText t) : text(std::move(t)) {}
    ChoiceText text;
    std::vector<uint32_t> tokens;
    bool ended = false;
    v1::ChoiceEnd::Reason reason = v1::ChoiceEnd::UNSPECIFIED;
  };

  absl::StatusOr<Choice*> Find(uint32_t index);
  v1::ChoiceEnd StopStringEnd(uint32_t index, const Choice& choice,
                              int stop_index) const;
  void End(Choice& choice, v1::ChoiceEnd::Reason reason);

  std::shared_ptr<const TextOptions> options_;
  std::vector<Choice> choices_;
  size_t num_ended_ = 0;
  uint32_t num_tokens_ = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_ANSWER_H_
