#include "router/flow/answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::router {
namespace {

// Keeps tokens [begin, end) of `delta`, with their logprobs.
void Keep(int begin, int end, v1::TokenDelta& delta) {
  const int size = delta.token_ids_size();
  if (begin == 0 && end == size) return;
  auto* ids = delta.mutable_token_ids();
  ids->Truncate(end);
  ids->erase(ids->begin(), ids->begin() + begin);
  if (delta.has_logprobs()) {
    auto* positions = delta.mutable_logprobs()->mutable_positions();
    positions->DeleteSubrange(end, size - end);
    positions->DeleteSubrange(0, begin);
  }
  delta.set_first_position(delta.first_position() +
                           static_cast<uint32_t>(begin));
}

absl::string_view ReasonWord(v1::ChoiceEnd::Reason reason) {
  switch (reason) {
    case v1::ChoiceEnd::STOP:
      return "stop";
    case v1::ChoiceEnd::LENGTH:
      return "length";
    case v1::ChoiceEnd::ABORT:
      return "abort";
    default:
      return "-";
  }
}

}  // namespace

absl::StatusOr<Answer> Answer::Create(uint32_t num_choices,
                                      std::shared_ptr<const TextOptions> text) {
  Answer answer;
  answer.options_ = std::move(text);
  answer.choices_.reserve(num_choices);
  for (uint32_t i = 0; i < num_choices; ++i) {
    ASSIGN_OR_RETURN(ChoiceText choice, ChoiceText::Create(answer.options_));
    answer.choices_.emplace_back(std::move(choice));
  }
  return answer;
}

absl::StatusOr<Answer::Choice*> Answer::Find(uint32_t index) {
  if (index >= choices_.size()) {
    return absl::DataLossError(
        absl::StrCat("worker sent choice ", index, " of ", choices_.size()));
  }
  return &choices_[index];
}

void Answer::End(Choice& choice, v1::ChoiceEnd::Reason reason) {
  choice.ended = true;
  choice.reason = reason;
  ++num_ended_;
}

v1::ChoiceEnd Answer::StopStringEnd(uint32_t index, const Choice& choice,
                                    int stop_index) const {
  v1::ChoiceEnd end;
  end.set_choice(index);
  end.set_reason(v1::ChoiceEnd::STOP);
  end.set_stop_string(options_->stop.stops[static_cast<size_t>(stop_index)]);
  end.set_positions(static_cast<uint32_t>(choice.tokens.size()));
  return end;
}

absl::StatusOr<Answer::Step> Answer::Take(v1::TokenDelta delta) {
  ASSIGN_OR_RETURN(Choice * choice, Find(delta.choice()));
  Step step;
  if (choice->ended) return step;
  const size_t known = choice->tokens.size();
  if (delta.first_position() > known) {
    return absl::DataLossError(
        absl::StrCat("worker sent position ", delta.first_position(),
                     " of choice ", delta.choice(), ", want ", known));
  }
  if (delta.has_logprobs() &&
      delta.logprobs().positions_size() != delta.token_ids_size()) {
    return absl::DataLossError(
        absl::StrCat("worker sent ", delta.logprobs().positions_size(),
                     " logprobs for ", delta.token_ids_size(), " tokens"));
  }
  const size_t skip = known - delta.first_position();
  const size_t size = static_cast<size_t>(delta.token_ids_size());
  if (skip >= size) return step;
  ChoiceText::Output output = choice->text.Push(
      absl::MakeConstSpan(delta.token_ids().data() + skip, size - skip));
  Keep(static_cast<int>(skip), static_cast<int>(skip + output.num_tokens),
       delta);
  choice->tokens.insert(choice->tokens.end(), delta.token_ids().begin(),
                        delta.token_ids().end());
  num_tokens_ += static_cast<uint32_t>(output.num_tokens);
  const uint32_t index = delta.choice();
  delta.set_text(std::move(output.text));
  step.delta = std::move(delta);
  if (output.stop_index.has_value()) {
    step.end = StopStringEnd(index, *choice, *output.stop_index);
    End(*choice, v1::ChoiceEnd::STOP);
  }
  return step;
}

absl::StatusOr<Answer::Step> Answer::Take(v1::ChoiceEnd end) {
  ASSIGN_OR_RETURN(Choice * choice, Find(end.choice()));
  Step step;
  if (choice->ended) return step;
  if (end.positions() != choice->tokens.size()) {
    return absl::DataLossError(
        absl::StrCat("worker ended choice ", end.choice(), " after ",
                     end.positions(), " tokens, got ", choice->tokens.size()));
  }
  ChoiceText::Output output = choice->text.Finish();
  if (!output.text.empty()) {
    v1::TokenDelta& delta = step.delta.emplace();
    delta.set_choice(end.choice());
    delta.set_first_position(static_cast<uint32_t>(choice->tokens.size()));
    delta.set_text(std::move(output.text));
  }
  step.end = output.stop_index.has_value()
                 ? StopStringEnd(end.choice(), *choice, *output.stop_index)
                 : std::move(end);
  End(*choice, step.end->reason());
  return step;
}

std::string Answer::FinishReasons() const {
  std::string words;
  for (const Choice& choice : choices_) {
    absl::StrAppend(&words, words.empty() ? "" : ",",
                    ReasonWord(choice.reason));
  }
  return words;
}

}  // namespace sluice::router
