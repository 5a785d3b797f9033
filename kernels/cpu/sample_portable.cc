#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/sample_row.h"
#include "kernels/cpu/work_split.h"

namespace sluice::kernels {
namespace {

// Steps 1 to 13 written down one after another: every kept token is a key, all
// of them are sorted, every key is drawn.
class PortableRow {
 public:
  PortableRow(const SampleRow& row, int64_t vocab, const SampleScratch& scratch)
      : row_(row), vocab_(vocab), x_(scratch.x), keys_(scratch.keys) {}

  SampleResult Sample() {
    for (int64_t t = 0; t < vocab_; ++t) {
      x_[t] = row_.logits[t];
      if (!(x_[t] < INFINITY)) return {.status = SampleStatus::kNotFinite};
    }
    if (!ApplyTokenEdits(row_, vocab_, x_)) {
      return {.status = SampleStatus::kNotFinite};
    }
    int32_t best = 0;
    for (int64_t t = 0; t < vocab_; ++t) {
      if (row_.allowed != nullptr &&
          (row_.allowed[t / 32] >> (t % 32) & 1) == 0) {
        x_[t] = -INFINITY;
      }
      if (x_[t] > x_[best]) best = static_cast<int32_t>(t);
    }
    if (x_[best] == -INFINITY) {
      return {.status = SampleStatus::kNothingAllowed};
    }
    if (row_.temperature < kGreedyTemperature) return {.token = best};
    const int64_t kept = Truncate(x_[best]);
    return {.token = DrawFromKeys(
                keys_, kept, {.seed = row_.seed, .position = row_.position})};
  }

 private:
  // Steps 9 to 12; the kept tokens' keys come first.
  int64_t Truncate(float x_best) {
    const float min_z = MinPThreshold(row_);
    int64_t kept = 0;
    for (int64_t t = 0; t < vocab_; ++t) {
      const float z = (x_[t] - x_best) / row_.temperature;
      if (z >= min_z) keys_[kept++] = TokenKey(z, static_cast<int32_t>(t));
    }
    if (!LimitsTopK(row_, vocab_) && !LimitsTopP(row_)) return kept;
    std::sort(keys_, keys_ + kept);
    if (LimitsTopK(row_, vocab_)) kept = std::min<int64_t>(kept, row_.top_k);
    if (!LimitsTopP(row_)) return kept;
    uint64_t total = 0;
    for (int64_t i = 0; i < kept; ++i) total += TokenMass(KeyZ(keys_[i]));
    const uint64_t threshold = TopPThreshold(row_.top_p, total);
    uint64_t mass = 0;
    for (int64_t i = 0; i < kept; ++i) {
      mass += TokenMass(KeyZ(keys_[i]));
      if (mass >= threshold) return i + 1;
    }
    return kept;
  }

  const SampleRow& row_;
  const int64_t vocab_;
  float* const x_;
  uint64_t* const keys_;
};

}  // namespace

void SamplePortable(const OpContext& context, const SampleArgs& args) {
  if (args.rows.empty()) return;
  SLUICE_CHECK(args.vocab >= 1 && args.vocab <= int64_t{1} << 22);
  ShareItems(context, static_cast<int64_t>(args.rows.size()),
             [&](int thread, int64_t i) {
               const SampleResult result =
                   PortableRow(
                       args.rows[i], args.vocab,
                       ScratchOfThread(args.scratch, args.vocab, thread))
                       .Sample();
               args.tokens[i] = result.token;
               args.status[i] = result.status;
             });
}

}  // namespace sluice::kernels
