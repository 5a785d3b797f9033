#include "worker/engine/sequence.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::worker {

absl::Status CheckPrompt(absl::Span<const TokenId> prompt, uint32_t vocab) {
  if (prompt.empty()) {
    return absl::InvalidArgumentError("prompt must hold at least one token");
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= 0 && static_cast<uint32_t>(prompt[i]) < vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt token ", prompt[i], " at ", i, " is outside [0, ", vocab, ")"));
  }
  return absl::OkStatus();
}

Sequence::Sequence(SequenceKey key, std::vector<TokenId> tokens,
                   uint32_t prompt_tokens)
    : key_(key),
      tokens_(std::move(tokens)),
      prompt_tokens_(prompt_tokens),
      emitted_(length()) {
  SLUICE_CHECK(prompt_tokens_ >= 1 && prompt_tokens_ <= length());
}

void Sequence::SkipTo(uint32_t entries) {
  SLUICE_CHECK(target_entries_ == 0 && in_flight_ == 0);
  SLUICE_CHECK(entries < length());
  target_entries_ = launched_entries_ = entries;
}

void Sequence::Receive() {
  SLUICE_CHECK(target_entries_ == 0 && in_flight_ == 0);
  target_entries_ = launched_entries_ = length();
}

void Sequence::LaunchTo(uint32_t end) {
  SLUICE_CHECK(end > launched_entries_);
  const bool drawn_before = in_flight_ == 1 && launched_entries_ == length();
  SLUICE_CHECK(end <= length() + (drawn_before ? 1 : 0));
  launched_entries_ = end;
  ++in_flight_;
}

void Sequence::Retire(uint32_t end, bool ok) {
  SLUICE_CHECK(in_flight_ > 0);
  SLUICE_CHECK(end > target_entries_ && end <= launched_entries_);
  --in_flight_;
  if (ok) target_entries_ = end;
}

void Sequence::Append(TokenId token) {
  SLUICE_CHECK(target_entries_ == length());
  SLUICE_CHECK(launched_entries_ == target_entries_ + in_flight_);
  tokens_.push_back(token);
}

void Sequence::Preempt() {
  SLUICE_CHECK(in_flight_ == 0);
  target_entries_ = launched_entries_ = 0;
}

absl::Span<const TokenId> Sequence::TakeEmitted() {
  const uint32_t first = std::exchange(emitted_, length());
  return absl::MakeConstSpan(tokens_).subspan(first);
}

absl::Status Sequence::CheckInvariants() const {
  if (prompt_tokens_ < 1 || prompt_tokens_ > length() ||
      target_entries_ > launched_entries_ ||
      launched_entries_ > length() + (in_flight_ > 0 ? 1 : 0)) {
    return absl::InternalError(
        absl::StrCat("sequence ", key_, ": P ", prompt_tokens_, " L ", length(),
                     " Ct ", target_entries_, " launched ", launched_entries_,
                     " in flight ", in_flight_));
  }
  return absl::OkStatus();
}

}  // namespace sluice::worker
