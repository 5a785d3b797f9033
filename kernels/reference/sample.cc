#include "kernels/reference/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sluice::kernels {
namespace {

// Tokens of `order` before the top_p cut; `kept` of them survived so far.
int64_t TopPCut(const SampleRow& row, KeptF64* result) {
  std::vector<double> mass;
  for (int64_t i = 0; i < result->kept; ++i) {
    mass.push_back(std::exp(result->z[result->order[i]]));
  }
  const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
  double sum = 0;
  for (int64_t i = 0; i < result->kept; ++i) {
    sum += mass[i];
    const double ahead = sum / total - double{row.top_p};
    result->margin = std::min(result->margin, std::fabs(ahead));
    if (ahead >= 0) return i + 1;
  }
  return result->kept;
}

}  // namespace

std::vector<double> EditedLogitsF64(const SampleRow& row, int64_t vocab) {
  std::vector<double> x(row.logits, row.logits + vocab);
  for (const TokenBias& bias : row.bias) x[bias.token] += bias.bias;
  for (const TokenCount& count : row.counts) {
    if (count.token < 0 || count.token >= vocab) continue;
    double& logit = x[count.token];
    logit = logit > 0 ? logit / row.repetition_penalty
                      : logit * row.repetition_penalty;
    if (count.generated < 1) continue;
    logit -= double{row.frequency_penalty} * count.generated;
    logit -= row.presence_penalty;
  }
  for (const int32_t token : row.banned) x[token] = -INFINITY;
  for (int64_t t = 0; row.allowed != nullptr && t < vocab; ++t) {
    if ((row.allowed[t / 32] >> (t % 32) & 1) == 0) x[t] = -INFINITY;
  }
  return x;
}

KeptF64 TruncateF64(const SampleRow& row, const std::vector<double>& x) {
  KeptF64 result;
  const double best = *std::max_element(x.begin(), x.end());
  for (const double logit : x) {
    result.z.push_back((logit - best) / double{row.temperature});
  }
  result.order.resize(x.size());
  std::iota(result.order.begin(), result.order.end(), 0);
  std::stable_sort(
      result.order.begin(), result.order.end(),
      [&](int32_t a, int32_t b) { return result.z[a] > result.z[b]; });
  result.kept = static_cast<int64_t>(x.size());
  if (row.min_p > 0) {
    const double floor = std::log(double{row.min_p});
    result.kept = std::count_if(result.z.begin(), result.z.end(),
                                [&](double z) { return z >= floor; });
  }
  if (row.top_k > 0) result.kept = std::min<int64_t>(result.kept, row.top_k);
  if (row.top_p < 1) result.kept = TopPCut(row, &result);
  return result;
}

double NoiseF64(uint32_t word) {
  const float v =
      std::min((static_cast<float>(word) + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
  return -std::log(-std::log1p(-double{v}));
}

std::vector<double> LogprobsF64(const float* logits, int64_t vocab) {
  const double best = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t t = 0; t < vocab; ++t) sum += std::exp(logits[t] - best);
  std::vector<double> result;
  for (int64_t t = 0; t < vocab; ++t) {
    result.push_back(logits[t] - best - std::log(sum));
  }
  return result;
}

}  // namespace sluice::kernels
