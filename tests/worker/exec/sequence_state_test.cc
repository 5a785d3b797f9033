#include "worker/exec/sequence_state.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace sluice::worker {
namespace {

using Counts = std::vector<std::pair<int32_t, int32_t>>;

SequenceStart StartOf(std::vector<TokenId> tokens, uint32_t prompt_tokens,
                      const SamplingParams& params) {
  return {.seq = 1,
          .tokens = std::move(tokens),
          .prompt_tokens = prompt_tokens,
          .seed = 42,
          .sampling = std::make_shared<const SamplingParams>(params)};
}

SamplingParams WithPenalty() {
  SamplingParams params;
  params.repetition_penalty = 1.2f;
  return params;
}

Counts CountsOf(const SequenceState& state) {
  Counts counts;
  for (const kernels::TokenCount& c : state.RowFor(nullptr).counts) {
    counts.push_back({c.token, c.generated});
  }
  return counts;
}

// Sampling specification section 12: prompt {0, 3}, generated [5, 5, 1].
TEST(SequenceState, CountsOfTheWorkedExample) {
  SequenceState state(StartOf({0, 3}, 2, WithPenalty()), {});
  for (TokenId token : {5, 5, 1}) state.Append(token);
  EXPECT_EQ(CountsOf(state), (Counts{{0, 0}, {3, 0}, {5, 2}, {1, 1}}));
  EXPECT_EQ(state.RowFor(nullptr).position, 5);
  EXPECT_EQ(state.RowFor(nullptr).seed, 42u);
}

// Tokens generated elsewhere count as generated, not as prompt.
TEST(SequenceState, ReplayedTokensAreGenerated) {
  SequenceState state(StartOf({0, 3, 5, 5, 1}, 2, WithPenalty()), {});
  EXPECT_EQ(CountsOf(state), (Counts{{0, 0}, {3, 0}, {5, 2}, {1, 1}}));
}

TEST(SequenceState, PromptTokenGeneratedLater) {
  SequenceState state(StartOf({7, 7, 9}, 3, WithPenalty()), {});
  EXPECT_EQ(CountsOf(state), (Counts{{7, 0}, {9, 0}}));
  state.Append(9);
  EXPECT_EQ(CountsOf(state), (Counts{{7, 0}, {9, 1}}));
}

TEST(SequenceState, TruncateForgets) {
  SequenceState state(StartOf({0, 3}, 2, WithPenalty()), {});
  for (TokenId token : {5, 5, 1}) state.Append(token);
  state.Truncate(3);
  EXPECT_EQ(CountsOf(state), (Counts{{0, 0}, {3, 0}, {5, 1}}));
  state.Truncate(10);
  EXPECT_EQ(state.tokens().size(), 3u);
}

TEST(SequenceState, NoCountsWithoutPenalties) {
  SequenceState state(StartOf({0, 3}, 2, SamplingParams()), {});
  state.Append(5);
  EXPECT_TRUE(CountsOf(state).empty());
}

TEST(SequenceState, MinTokensBansEosAndStopTokens) {
  SamplingParams params;
  params.min_tokens = 2;
  params.max_tokens = 5;
  params.stop_token_ids = {8, 9};
  const std::vector<TokenId> eos = {1, 2};
  SequenceState state(StartOf({0, 3}, 2, params), eos);
  const auto banned = [&state] {
    const auto span = state.RowFor(nullptr).banned;
    return std::vector<TokenId>(span.begin(), span.end());
  };
  EXPECT_EQ(banned(), (std::vector<TokenId>{1, 2, 8, 9}));
  state.Append(4);
  EXPECT_EQ(banned(), (std::vector<TokenId>{1, 2, 8, 9}));
  state.Append(4);
  EXPECT_TRUE(banned().empty());

  params.ignore_eos = true;
  SequenceState ignoring(StartOf({0, 3}, 2, params), eos);
  EXPECT_EQ(ignoring.RowFor(nullptr).banned.size(), 2u);

  // Replayed tokens count towards min_tokens.
  SequenceState replayed(StartOf({0, 3, 4, 4}, 2, params), eos);
  EXPECT_TRUE(replayed.RowFor(nullptr).banned.empty());
}

}  // namespace
}  // namespace sluice::worker
