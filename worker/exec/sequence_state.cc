#include "worker/exec/sequence_state.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice::worker {
namespace {

// Tokens to come that memory is taken for at once, so that decode steps need
// none; a longer sequence grows now and then.
constexpr size_t kMostReserved = 4096;

}  // namespace

SequenceState::SequenceState(const SequenceStart& start,
                             absl::Span<const TokenId> eos_ids)
    : tokens_(start.tokens),
      prompt_tokens_(start.prompt_tokens),
      seed_(start.seed),
      params_(start.sampling) {
  SLUICE_CHECK(params_ != nullptr);
  SLUICE_CHECK(prompt_tokens_ <= tokens_.size());
  const SamplingParams& p = *params_;
  const size_t to_come =
      std::min<size_t>(std::max(p.max_tokens, 0), kMostReserved);
  tokens_.reserve(tokens_.size() + to_come);
  if (p.min_tokens > 0) {
    if (!p.ignore_eos) banned_.assign(eos_ids.begin(), eos_ids.end());
    banned_.insert(banned_.end(), p.stop_token_ids.begin(),
                   p.stop_token_ids.end());
  }
  counts_matter_ = p.repetition_penalty != 1 || p.frequency_penalty != 0 ||
                   p.presence_penalty != 0;
  if (counts_matter_) {
    counts_.reserve(tokens_.size() + to_come);
    count_index_.reserve(tokens_.size() + to_come);
  }
  for (size_t i = 0; i < tokens_.size(); ++i) {
    Count(tokens_[i], i >= prompt_tokens_);
  }
}

void SequenceState::Count(TokenId token, bool generated) {
  if (!counts_matter_) return;
  const auto [it, is_new] =
      count_index_.emplace(token, static_cast<uint32_t>(counts_.size()));
  if (is_new) counts_.push_back({.token = token, .generated = 0});
  if (generated) ++counts_[it->second].generated;
}

void SequenceState::Append(TokenId token) {
  tokens_.push_back(token);
  Count(token, tokens_.size() > prompt_tokens_);
}

void SequenceState::Truncate(uint32_t length) {
  if (length >= tokens_.size()) return;
  tokens_.resize(length);
  counts_.clear();
  count_index_.clear();
  for (size_t i = 0; i < tokens_.size(); ++i) {
    Count(tokens_[i], i >= prompt_tokens_);
  }
}

kernels::SampleRow SequenceState::RowFor(const float* logits) const {
  const SamplingParams& p = *params_;
  const int64_t position = static_cast<int64_t>(tokens_.size());
  const bool too_early = position - prompt_tokens_ < p.min_tokens;
  return {.logits = logits,
          .temperature = p.temperature,
          .top_k = p.top_k,
          .top_p = p.top_p,
          .min_p = p.min_p,
          .repetition_penalty = p.repetition_penalty,
          .frequency_penalty = p.frequency_penalty,
          .presence_penalty = p.presence_penalty,
          .counts = counts_,
          .bias = p.logit_bias,
          .banned = too_early ? absl::MakeConstSpan(banned_)
                              : absl::Span<const TokenId>(),
          .allowed = nullptr,
          .seed = seed_,
          .position = position};
}

}  // namespace sluice::worker
