#ifndef KERNELS_CPU_LOGPROBS_LANES_H_
#define KERNELS_CPU_LOGPROBS_LANES_H_

#include <limits>

#include "base/check.h"
#include "kernels/cpu/top_logprobs.h"
#include "kernels/cpu/work_split.h"

// Logprobs over 16 lanes. Lanes::Sum64 is 16 f64 sums.

namespace sluice::kernels {

// Offers tokens [begin, begin + 16) that are above the list's floor.
template <typename Lanes>
void OfferLanes(typename Lanes::F x, int64_t begin, TopLogits* top) {
  // Not less: an equal logit is turned away by Offer().
  uint32_t in = Lanes::MaskGe(x, Lanes::Set(top->floor()));
  if (in == 0) return;
  alignas(64) float values[16];
  Lanes::Store(values, x);
  for (; in != 0; in &= in - 1) {
    const int lane = __builtin_ctz(in);
    top->Offer(static_cast<int32_t>(begin + lane), values[lane]);
  }
}

template <typename Lanes>
void LogprobsOfRow(const LogprobsRow& row, int64_t vocab) {
  using F = typename Lanes::F;
  TopLogits top(row);
  const F nothing = Lanes::Set(-std::numeric_limits<float>::infinity());
  F best_lanes = nothing;
  int64_t t = 0;
  const auto pass = [&](F x, int64_t n) {
    best_lanes = Lanes::Max(x, best_lanes);
    if (top.full()) {
      OfferLanes<Lanes>(x, t, &top);
      return;
    }
    for (int64_t i = t; i < t + n; ++i) {
      top.Offer(static_cast<int32_t>(i), row.logits[i]);
    }
  };
  for (; t + 16 <= vocab; t += 16) pass(Lanes::Load(row.logits + t), 16);
  const int64_t whole = t;
  const int64_t rest = vocab - t;
  if (rest > 0) {
    best_lanes = Lanes::Max(
        Lanes::FirstElse(Lanes::LoadFirst(row.logits + t, rest), nothing, rest),
        best_lanes);
    for (; t < vocab; ++t) top.Offer(static_cast<int32_t>(t), row.logits[t]);
  }
  const float best = Lanes::MaxLane(best_lanes);
  const F best_set = Lanes::Set(best);
  typename Lanes::Sum64 sum;
  for (t = 0; t < whole; t += 16) {
    sum.Add(Lanes::Exp(Lanes::Sub(Lanes::Load(row.logits + t), best_set)));
  }
  if (rest > 0) {
    const F e = Lanes::Exp(
        Lanes::Sub(Lanes::LoadFirst(row.logits + t, rest), best_set));
    sum.Add(Lanes::FirstElse(e, Lanes::Zero(), rest));
  }
  alignas(64) double lanes[16];
  sum.Store(lanes);
  top.Finish(best, FoldLanes(lanes));
}

template <typename Lanes>
void LogprobsWithLanes(const OpContext& context, const LogprobsArgs& args) {
  ShareItems(context, static_cast<int64_t>(args.rows.size()),
             [&](int, int64_t i) {
               const LogprobsRow& row = args.rows[i];
               SLUICE_CHECK(row.token >= 0 && row.token < args.vocab);
               LogprobsOfRow<Lanes>(row, args.vocab);
             });
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_LOGPROBS_LANES_H_
