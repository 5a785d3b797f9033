// The real model against the float64 oracle; tolerances and their reasons:
// tests/golden/README.md. Needs the model file (see SmolLm2Path).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "tests/worker/exec/rig.h"
#include "tests/worker/model/golden_prompts.h"

namespace sluice::worker {
namespace {

std::unique_ptr<Rig> MakeRig(bool exact, const CausalLm* causal_lm) {
  return std::make_unique<Rig>(RigOptions{
      .model = SharedModel(SmolLm2Path(), exact),
      .causal_lm = causal_lm,
      .kv_dtype = exact ? kernels::KvDtype::kF32 : kernels::KvDtype::kBF16,
      .threads = kernels::UsableCpus(),
      .num_blocks = 128,
      .max_batch_tokens = 1536,
      .model_tokens = 2048,
      .digest_logits = false});
}

// Calls `check` with our log-probabilities at every listed position.
void ForEachPosition(
    Rig* rig, size_t max_prompt_tokens,
    const std::function<void(const GoldenPosition&,
                             const std::vector<double>&)>& check) {
  const int64_t vocab = rig->model().config().vocab;
  for (const GoldenPrompt& prompt : ReadSmolLm2Prompts()) {
    if (prompt.ids.size() > max_prompt_tokens) continue;
    std::vector<int32_t> rows;
    for (const GoldenPosition& at : prompt.positions) {
      rows.push_back(at.position);
    }
    const std::vector<float> logits = rig->LogitsAt(prompt.ids, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      check(prompt.positions[i], LogSoftmax({logits.data() + i * vocab,
                                             static_cast<size_t>(vocab)}));
    }
  }
}

TEST(SmolLm2Exact, LogprobsWithin5e4) {
  std::unique_ptr<Rig> rig = MakeRig(true, nullptr);
  double worst = 0;
  int positions = 0;
  int misordered = 0;
  ForEachPosition(
      rig.get(), 1 << 20,
      [&](const GoldenPosition& at, const std::vector<double>& ours) {
        ++positions;
        for (size_t j = 0; j < at.ids.size(); ++j) {
          worst = std::max(worst, std::abs(ours[at.ids[j]] - at.values[j]));
          for (size_t i = 0; i < j; ++i) {
            misordered += at.values[i] - at.values[j] >= 1e-3 &&
                          ours[at.ids[i]] <= ours[at.ids[j]];
          }
        }
      });
  std::printf("%d positions, largest logprob difference %.2e\n", positions,
              worst);
  EXPECT_GE(positions, 300);
  EXPECT_LE(worst, 5e-4);
  EXPECT_EQ(misordered, 0);
}

TEST(SmolLm2Exact, GreedyUntilANearTie) {
  std::unique_ptr<Rig> rig = MakeRig(true, nullptr);
  const std::vector<GoldenPrompt> prompts = ReadSmolLm2Prompts();
  std::vector<std::vector<TokenId>> ids;
  for (const GoldenPrompt& prompt : prompts) ids.push_back(prompt.ids);
  const auto greedy = rig->GreedyTogether(ids, 64);
  int compared = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const GreedyComparison c = CompareGreedy(prompts[i], greedy[i], 2e-3);
    EXPECT_EQ(c.differs_at, -1) << prompts[i].name;
    compared += c.compared;
  }
  std::printf("%d greedy steps compared\n", compared);
  EXPECT_GE(compared, 1500);
}

struct Statistics {
  int positions = 0;
  double kl_mean = 0;
  double kl_max = 0;
  double difference_mean = 0;  // of the logprobs of the listed tokens
  int best_changed = 0;        // at an oracle gap above 0.7

  bool WithinLimits() const {
    return kl_mean <= 0.006 && kl_max <= 0.15 && difference_mean <= 0.15 &&
           best_changed == 0;
  }
};

// KL over the listed tokens and the rest of the mass as one more.
double Kl(const GoldenPosition& at, const std::vector<double>& ours) {
  double kl = 0;
  double rest_oracle = 1;
  double rest_ours = 1;
  for (size_t j = 0; j < at.ids.size(); ++j) {
    const double p = std::exp(at.values[j]);
    kl += p * (at.values[j] - ours[at.ids[j]]);
    rest_oracle -= p;
    rest_ours -= std::exp(ours[at.ids[j]]);
  }
  if (rest_oracle > 1e-6 && rest_ours > 1e-6) {
    kl += rest_oracle * std::log(rest_oracle / rest_ours);
  }
  return kl;
}

Statistics Measure(Rig* rig, size_t max_prompt_tokens) {
  Statistics s;
  int listed = 0;
  ForEachPosition(
      rig, max_prompt_tokens,
      [&](const GoldenPosition& at, const std::vector<double>& ours) {
        ++s.positions;
        const double kl = Kl(at, ours);
        s.kl_mean += kl;
        s.kl_max = std::max(s.kl_max, kl);
        for (size_t j = 0; j < at.ids.size(); ++j) {
          s.difference_mean += std::abs(ours[at.ids[j]] - at.values[j]);
          ++listed;
        }
        const auto best = std::max_element(ours.begin(), ours.end());
        const bool changed = best - ours.begin() != at.ids[0];
        s.best_changed += changed && at.values[0] - at.values[1] > 0.7;
      });
  s.kl_mean /= s.positions;
  s.difference_mean /= listed;
  std::printf(
      "%d positions: KL mean %.4f max %.4f, mean difference %.3f, %d "
      "best tokens changed at a gap above 0.7\n",
      s.positions, s.kl_mean, s.kl_max, s.difference_mean, s.best_changed);
  return s;
}

TEST(SmolLm2Integer, CloseToTheOracleStatistically) {
  std::unique_ptr<Rig> rig = MakeRig(false, nullptr);
  const Statistics s = Measure(rig.get(), 1 << 20);
  EXPECT_GE(s.positions, 300);
  EXPECT_TRUE(s.WithinLimits());
}

// The limits must see a model that is computed wrongly.
class SmolLm2Sabotaged : public testing::Test {
 protected:
  SmolLm2Sabotaged()
      : threads_(kernels::UsableCpus()),
        file_(*ReadGguf(*MappedFile::Open(SmolLm2Path()))),
        config_(*ConfigFromGguf(file_)),
        weights_(*LoadDecoderWeights({&threads_}, {.config = config_,
                                                   .file = file_.weights,
                                                   .naming = Naming::kGguf,
                                                   .widen_to_f32 = false,
                                                   .progress = {}})) {}

  bool WithinLimits() {
    const CausalLm model(config_, std::move(weights_), 2048);
    std::unique_ptr<Rig> rig = MakeRig(false, &model);
    return Measure(rig.get(), 100).WithinLimits();
  }

  kernels::ThreadPool threads_;
  GgufFile file_;
  ModelConfig config_;
  DecoderWeights weights_;
};

TEST_F(SmolLm2Sabotaged, UntouchedPasses) { EXPECT_TRUE(WithinLimits()); }

TEST_F(SmolLm2Sabotaged, WrongRopeBaseIsSeen) {
  config_.rope.base = 10000;
  EXPECT_FALSE(WithinLimits());
}

TEST_F(SmolLm2Sabotaged, MissingNormIsSeen) {
  std::vector<float>& norm = weights_.layers[7].mlp_norm;
  std::fill(norm.begin(), norm.end(), 1.0f);
  EXPECT_FALSE(WithinLimits());
}

TEST_F(SmolLm2Sabotaged, WrongRopePairsAreSeen) {
  config_.rope_pairs = kernels::RopePairs::kHalf;
  EXPECT_FALSE(WithinLimits());
}

}  // namespace
}  // namespace sluice::worker
