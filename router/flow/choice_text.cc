#include "router/flow/choice_text.h"

#include <utility>

#include "base/status_macros.h"

namespace sluice::router {

absl::StatusOr<ChoiceText> ChoiceText::Create(
    std::shared_ptr<const TextOptions> options) {
  ASSIGN_OR_RETURN(StopMatcher matcher, StopMatcher::Create(options->stop));
  return ChoiceText(std::move(options), std::move(matcher));
}

ChoiceText::Output ChoiceText::Push(absl::Span<const uint32_t> ids) {
  Output output;
  for (uint32_t id : ids) {
    ++num_generated_;
    ++output.num_tokens;
    if (options_->silent_ids.contains(id)) continue;
    const std::string piece = detokenizer_.Feed(static_cast<int32_t>(id));
    if (piece.empty()) continue;
    StopMatcher::Output decided = matcher_.Push(piece, num_generated_);
    output.text += decided.text;
    if (decided.stop_index.has_value()) {
      output.stop_index = decided.stop_index;
      break;
    }
  }
  return output;
}

ChoiceText::Output ChoiceText::Finish() {
  Output output;
  const std::string rest = detokenizer_.Finish();
  if (!rest.empty()) {
    StopMatcher::Output decided = matcher_.Push(rest, num_generated_);
    output.text = std::move(decided.text);
    output.stop_index = decided.stop_index;
  }
  if (!output.stop_index.has_value()) output.text += matcher_.Finish();
  return output;
}

}  // namespace sluice::router
