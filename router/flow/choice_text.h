#ifndef ROUTER_FLOW_CHOICE_TEXT_H_
#define ROUTER_FLOW_CHOICE_TEXT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "router/text/detokenizer.h"
#include "router/text/stop_strings.h"
#include "router/text/tokenizer.h"

namespace sluice::router {

struct TextOptions {
  const Tokenizer* tokenizer = nullptr;  // outlives every ChoiceText
  StopOptions stop;
  bool skip_special_tokens = true;
  // Tokens that end a choice: never part of the text.
  absl::flat_hash_set<uint32_t> silent_ids;
};

// The text of one choice as its tokens come: detokenised, whole code points,
// cut at stop strings. A pure function of the tokens, so it can be rebuilt by
// feeding them again. One thread at a time.
class ChoiceText {
 public:
  // kInvalidArgument: the stop strings, see StopMatcher.
  static absl::StatusOr<ChoiceText> Create(
      std::shared_ptr<const TextOptions> options);

  struct Output {
    std::string text;
    size_t num_tokens = 0;          // of those pushed that count
    std::optional<int> stop_index;  // a stop string matched; nothing follows
  };
  Output Push(absl::Span<const uint32_t> ids);
  // What was held back, once the worker has ended the choice. It may still
  // complete a stop string.
  Output Finish();

 private:
  ChoiceText(std::shared_ptr<const TextOptions> options, StopMatcher matcher)
      : options_(std::move(options)),
        detokenizer_(options_->tokenizer,
                     {.skip_special_tokens = options_->skip_special_tokens}),
        matcher_(std::move(matcher)) {}

  std::shared_ptr<const TextOptions> options_;
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  int64_t num_generated_ = 0;
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_CHOICE_TEXT_H_
