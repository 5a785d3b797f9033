// Stop rules and choice seeds (sampling specification, sections 10 and 5.3).
#include "worker/sampling/token_stop.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "worker/sampling/choice_seed.h"

namespace sluice::worker {
namespace {

struct Case {
  std::string what;
  TokenId token;
  uint32_t generated;
  uint32_t length;
  bool ignore_eos;
  StopCause want;
};

TEST(TokenStopTest, EveryRowInItsOrder) {
  const std::vector<TokenId> eos = {7, 8};
  const std::vector<TokenId> stops = {20, 7};
  const std::vector<Case> cases = {
      {"plain", 1, 1, 11, false, StopCause::kNone},
      {"eos", 8, 1, 11, false, StopCause::kEos},
      {"eos before stop token", 7, 1, 11, false, StopCause::kEos},
      {"eos before length", 8, 5, 30, false, StopCause::kEos},
      {"ignored eos", 8, 1, 11, true, StopCause::kNone},
      {"ignored eos that is a stop token", 7, 1, 11, true,
       StopCause::kStopToken},
      {"stop token", 20, 1, 11, false, StopCause::kStopToken},
      {"stop token before length", 20, 5, 11, false, StopCause::kStopToken},
      {"one below max_tokens", 1, 4, 14, false, StopCause::kNone},
      {"max_tokens", 1, 5, 15, false, StopCause::kMaxTokens},
      {"max_tokens before length", 1, 5, 30, false, StopCause::kMaxTokens},
      {"one below the model's length", 1, 1, 29, false, StopCause::kNone},
      {"the model's length", 1, 1, 30, false, StopCause::kLengthLimit},
      {"above it", 1, 1, 31, false, StopCause::kLengthLimit},
  };
  for (const Case& c : cases) {
    const StopRules rules{.eos_ids = eos,
                          .stop_token_ids = stops,
                          .ignore_eos = c.ignore_eos,
                          .max_tokens = 5,
                          .length_limit = 30};
    EXPECT_EQ(CheckStop(rules, c.token, c.generated, c.length), c.want)
        << c.what;
  }
}

TEST(ChoiceSeedTest, WorkedNumbers) {
  EXPECT_EQ(ChoiceSeed(42, 0), 42);
  EXPECT_EQ(ChoiceSeed(42, 1), 0xbdd732262feb6e95u);
  EXPECT_EQ(ChoiceSeed(42, 2), 0x28efe333b266f103u);
  EXPECT_EQ(ChoiceSeed(UINT64_MAX, 0), UINT64_MAX);
}

}  // namespace
}  // namespace sluice::worker
