#ifndef KERNELS_CPU_SAMPLE_LANES_H_
#define KERNELS_CPU_SAMPLE_LANES_H_

#include <cstring>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/sample_row.h"
#include "kernels/cpu/work_split.h"

// Sampling over 16 lanes. The result is that of the portable path, found
// without touching every token more often than needed: one pass over the
// logits keeps the maximum of each block of 64; the cut of top_k and top_p is
// looked for in the blocks that can hold it; a token is drawn only if its
// random word can still win. What decides is always computed exactly.

namespace sluice::kernels {

template <typename Lanes, typename Random>
class RowSampler {
 public:
  using F = typename Lanes::F;

  RowSampler(const SampleRow& row, int64_t vocab, const SampleScratch& scratch)
      : row_(row),
        vocab_(vocab),
        blocks_((vocab + kSampleBlock - 1) / kSampleBlock),
        scratch_(scratch) {}

  SampleResult Sample() {
    if (!Prepare()) return {.status = SampleStatus::kNotFinite};
    if (best_ == -kInfinity) return {.status = SampleStatus::kNothingAllowed};
    if (row_.temperature < kGreedyTemperature) return {.token = FirstBest()};
    cut_z_ = MinPThreshold(row_);
    int64_t kept = -1;  // unknown, not listed
    if (LimitsTopK(row_, vocab_)) kept = CutTopK();
    if (LimitsTopP(row_)) {
      kept = kept < 0 ? CutTopPOfAll() : CutTopPOfKeys(kept);
    }
    const RandomStream stream = {.seed = row_.seed, .position = row_.position};
    if (kept >= 0 && kept <= kDrawFromList) {
      return {.token = DrawFromKeys(scratch_.keys, kept, stream)};
    }
    return {.token = Draw(stream)};
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Up to this many kept tokens are drawn one by one.
  static constexpr int64_t kDrawFromList = 64;
  // Noise() is at most 22.8739.
  static constexpr float kLargestNoise = 23.0f;
  // z below this has no mass.
  static constexpr float kLowestWithMass = -28.0f;

  // The exact z of step 9; -0 becomes +0 nowhere, as they compare equal.
  float ZOf(float x) const { return (x - best_) / row_.temperature; }
  F ZOf(F x) const {
    return Lanes::Div(Lanes::Sub(x, Lanes::Set(best_)),
                      Lanes::Set(row_.temperature));
  }

  // Steps 1 to 7. Afterwards Block() gives the edited logits, padded with
  // -inf, block_max their maxima, best_ the largest. False: not finite.
  bool Prepare() {
    x_ = row_.logits;
    const bool edits = HasTokenEdits(row_);
    const bool masked = row_.allowed != nullptr;
    if (edits) {
      if (!Scan<true, true, false>()) return false;
      if (!ApplyTokenEdits(row_, vocab_, scratch_.x)) return false;
      if (masked) {
        Scan<true, false, true>();
      } else {
        Scan<false, false, false>();
      }
      return true;
    }
    return masked ? Scan<true, true, true>() : Scan<false, true, false>();
  }

  // One pass over x_: block maxima and best_. kCopy writes what it saw to
  // scratch and makes that x_; kCheck looks for NaN and +inf; kMask applies
  // the grammar mask.
  template <bool kCopy, bool kCheck, bool kMask>
  bool Scan() {
    const F top = Lanes::Set(kInfinity);
    F best = Lanes::Set(-kInfinity);
    uint32_t bad = 0;
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t begin = b * kSampleBlock;
      const bool whole = begin + kSampleBlock <= vocab_;
      F block_best = Lanes::Set(-kInfinity);
#pragma GCC unroll 4
      for (int64_t i = begin; i < begin + kSampleBlock; i += 16) {
        F x = whole ? Lanes::Load(x_ + i) : LoadTail(i);
        if (kCheck) bad |= Lanes::MaskNotLess(x, top);
        if (kMask) x = Lanes::Select(Allowed(i), x, Lanes::Set(-kInfinity));
        if (kCopy || !whole) Lanes::Store(Copied(i, kCopy), x);
        block_best = Lanes::Max(block_best, x);
      }
      scratch_.block_max[b] = Lanes::MaxLane(block_best);
      best = Lanes::Max(best, block_best);
    }
    best_ = Lanes::MaxLane(best);
    if (kCopy) x_ = scratch_.x;
    return bad == 0;
  }

  // Where the scan puts token i: the whole copy, or the last block alone.
  float* Copied(int64_t i, bool copy) {
    if (copy || x_ == scratch_.x) return scratch_.x + i;
    return scratch_.x + (i - (blocks_ - 1) * kSampleBlock);
  }

  F LoadTail(int64_t i) const {
    const int64_t n = vocab_ - i < 0 ? 0 : (vocab_ - i < 16 ? vocab_ - i : 16);
    return Lanes::FirstElse(Lanes::LoadFirst(x_ + (n > 0 ? i : 0), n),
                            Lanes::Set(-kInfinity), n);
  }

  // Mask bits of tokens i .. i + 15; tokens past the end are not allowed.
  uint32_t Allowed(int64_t i) const {
    if (i >= vocab_) return 0;
    return row_.allowed[i / 32] >> (i % 32) & 0xffff;
  }

  const float* Block(int64_t b) const {
    if (x_ == scratch_.x || (b + 1) * kSampleBlock <= vocab_) {
      return x_ + b * kSampleBlock;
    }
    return scratch_.x;  // the padded last block
  }

  // Lowest token whose logit is the largest.
  int32_t FirstBest() const {
    for (int64_t b = 0; b < blocks_; ++b) {
      if (!(scratch_.block_max[b] == best_)) continue;
      const float* x = Block(b);
      for (int64_t i = 0; i < kSampleBlock; ++i) {
        if (x[i] == best_) return static_cast<int32_t>(b * kSampleBlock + i);
      }
    }
    SLUICE_CHECK(false);
  }

  // Appends the keys of tokens with from <= z < below.
  int64_t Collect(float from, float below, int64_t count) {
    const F low = Lanes::Set(from);
    const F high = Lanes::Set(below);
    for (int64_t b = 0; b < blocks_; ++b) {
      if (!(ZOf(scratch_.block_max[b]) >= from)) continue;
      const float* x = Block(b);
      for (int64_t i = 0; i < kSampleBlock; i += 16) {
        const F z = ZOf(Lanes::Load(x + i));
        uint32_t in = Lanes::MaskGe(z, low) & ~Lanes::MaskGe(z, high);
        if (in == 0) continue;
        alignas(64) float values[16];
        Lanes::Store(values, z);
        for (; in != 0; in &= in - 1) {
          const int lane = __builtin_ctz(in);
          const int64_t token = b * kSampleBlock + i + lane;
          if (token >= vocab_) break;
          scratch_.keys[count++] =
              TokenKey(values[lane], static_cast<int32_t>(token));
        }
      }
    }
    return count;
  }

  // Keeps the first top_k tokens of those min_p keeps; returns how many there
  // are, their keys first in scratch.
  int64_t CutTopK() {
    const int64_t k = row_.top_k;
    float from = cut_z_;
    if (k <= blocks_) {
      // At least k tokens reach the k-th largest block maximum.
      std::memcpy(scratch_.block_copy, scratch_.block_max,
                  static_cast<size_t>(blocks_) * sizeof(float));
      const float floor = ZOf(KthLargest(scratch_.block_copy, blocks_, k));
      from = floor > from ? floor : from;
    }
    const int64_t n = Collect(from, kInfinity, 0);
    if (n <= k) {
      cut_z_ = from;
      return n;
    }
    SelectFirst(scratch_.keys, n, k);
    SetCut(scratch_.keys[k - 1]);
    return k;
  }

  // Step 12 when top_k listed its survivors.
  int64_t CutTopPOfKeys(int64_t n) {
    uint64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
      total += TokenMass(KeyZ(scratch_.keys[i]));
    }
    const int64_t kept =
        SelectByMass(scratch_.keys, n, 0, TopPThreshold(row_.top_p, total));
    SetCut(scratch_.keys[kept - 1]);
    return kept;
  }

  // Tokens with z >= from, and their mass.
  struct Above {
    uint64_t mass = 0;
    int64_t count = 0;
  };

  Above MeasureAbove(float from) const {
    Above above;
    typename Random::Mass mass;
    const F low = Lanes::Set(from);
    for (int64_t b = 0; b < blocks_; ++b) {
      if (!(ZOf(scratch_.block_max[b]) >= from)) continue;
      const float* x = Block(b);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kSampleBlock; i += 16) {
        const F z = ZOf(Lanes::Load(x + i));
        const uint32_t in = Lanes::MaskGe(z, low);
        above.count += __builtin_popcount(in);
        mass.Add(Lanes::Select(in, Lanes::Exp(z), Lanes::Zero()));
      }
    }
    above.mass = mass.Total();
    return above;
  }

  // Step 12 over every token that min_p keeps. Bands of falling z are measured
  // until they hold enough mass; the last one is halved until few tokens are
  // left to put in order. Returns as Cut*() do, or -1 when the kept tokens are
  // too many to list.
  int64_t CutTopPOfAll() {
    constexpr float kBands[] = {-2.0f, -4.0f, -8.0f, -16.0f, kLowestWithMass};
    constexpr int64_t kFewTokens = 1024;
    constexpr int kHalvings = 16;
    const float lowest = cut_z_ > kLowestWithMass ? cut_z_ : kLowestWithMass;
    const uint64_t threshold =
        TopPThreshold(row_.top_p, MeasureAbove(lowest).mass);
    // The cut is at z in [from, below).
    float from = 0;
    float below = kInfinity;
    Above with;     // z >= from
    Above without;  // z >= below
    for (const float band : kBands) {
      from = band > lowest ? band : lowest;
      with = MeasureAbove(from);
      if (with.mass >= threshold) break;
      below = from;
      without = with;
    }
    SLUICE_CHECK(with.mass >= threshold);
    for (int i = 0; i < kHalvings && with.count - without.count > kFewTokens;
         ++i) {
      const float middle = 0.5f * (from + (below < 0 ? below : 0.0f));
      const Above half = MeasureAbove(middle);
      if (half.mass >= threshold) {
        from = middle;
        with = half;
      } else {
        below = middle;
        without = half;
      }
    }
    const bool list_all = with.count <= kFewTokens;
    if (list_all) without = {};
    const int64_t count = Collect(from, list_all ? kInfinity : below, 0);
    const int64_t kept =
        SelectByMass(scratch_.keys, count, without.mass, threshold);
    SetCut(scratch_.keys[kept - 1]);
    return list_all ? kept : -1;
  }

  void SetCut(uint64_t last_kept) {
    cut_z_ = KeyZ(last_kept);
    cut_token_ = KeyToken(last_kept);
  }

  bool Kept(float z, int32_t token) const {
    return z > cut_z_ || (z == cut_z_ && token <= cut_token_);
  }

  // Step 13 over every kept token. A token's noise is at most -ln(v), v its
  // word as a fraction, so it can only beat the best key so far when
  // v <= exp(z - key): that is tested with some slack, first with the largest z
  // of a block, and what passes is computed exactly.
  int32_t Draw(const RandomStream& stream) {
    stream_ = stream;
    winner_ = -1;
    Try(FirstWithLargestZ());
    alignas(64) uint32_t words[kSampleBlock];
    for (int64_t b = 0; b < blocks_; ++b) {
      const float z_max = ZOf(scratch_.block_max[b]);
      if (!(z_max >= cut_z_) || z_max + kLargestNoise < winner_key_) continue;
      Random::Words(stream, static_cast<uint32_t>(b * kSampleBlock / 4), words);
      const F limit = HalfWordLimit(Lanes::Set(z_max));
      uint32_t any = 0;
#pragma GCC unroll 4
      for (int64_t i = 0; i < kSampleBlock; i += 16) {
        any |= Random::MaskAtMost(words + i, limit);
      }
      if (any != 0) DrawBlock(b, words);
    }
    return winner_;
  }

  // Half of the largest word with which a token of this z may beat the winner,
  // and a little more.
  F HalfWordLimit(F z) const {
    const F ahead =
        Lanes::Min(Lanes::Sub(z, Lanes::Set(winner_key_)), Lanes::Zero());
    return Lanes::Fma(Lanes::Exp(ahead), Lanes::Set(0x1p31f * 1.001f),
                      Lanes::Set(1.0f));
  }

  void DrawBlock(int64_t b, const uint32_t* words) {
    const F best = Lanes::Set(best_);
    const F inverse = Lanes::Set(1.0f / row_.temperature);
    const float* x = Block(b);
    for (int64_t i = 0; i < kSampleBlock; i += 16) {
      const F z = Lanes::Mul(Lanes::Sub(Lanes::Load(x + i), best), inverse);
      uint32_t in = Random::MaskAtMost(words + i, HalfWordLimit(z));
      for (; in != 0; in &= in - 1) {
        const int64_t token = b * kSampleBlock + i + __builtin_ctz(in);
        if (token < vocab_) Try(static_cast<int32_t>(token));
      }
    }
  }

  // The first token in the order of truncation, which every cut keeps.
  int32_t FirstWithLargestZ() const {
    for (int64_t b = 0; b < blocks_; ++b) {
      if (!(ZOf(scratch_.block_max[b]) >= 0)) continue;
      const float* x = Block(b);
      for (int64_t i = 0; i < kSampleBlock; ++i) {
        if (ZOf(x[i]) >= 0) return static_cast<int32_t>(b * kSampleBlock + i);
      }
    }
    SLUICE_CHECK(false);
  }

  // Lets one token compete with the winner so far.
  void Try(int32_t token) {
    const float z = ZOf(Block(token / kSampleBlock)[token % kSampleBlock]);
    if (!Kept(z, token)) return;
    const float key =
        z + Noise(RandomWord(stream_, static_cast<uint32_t>(token)));
    if (winner_ < 0 || key > winner_key_ ||
        (key == winner_key_ && token < winner_)) {
      winner_ = token;
      winner_key_ = key;
    }
  }

  const SampleRow& row_;
  const int64_t vocab_;
  const int64_t blocks_;
  const SampleScratch scratch_;
  const float* x_ = nullptr;
  float best_ = 0;
  // Kept: z above cut_z_, or equal and the token at most cut_token_.
  float cut_z_ = -kInfinity;
  int32_t cut_token_ = std::numeric_limits<int32_t>::max();
  RandomStream stream_;
  int32_t winner_ = -1;
  float winner_key_ = 0;
};

template <typename Lanes, typename Random>
void SampleWithLanes(const OpContext& context, const SampleArgs& args) {
  if (args.rows.empty()) return;
  SLUICE_CHECK(args.vocab >= 1 && args.vocab <= int64_t{1} << 22);
  ShareItems(context, static_cast<int64_t>(args.rows.size()),
             [&](int thread, int64_t i) {
               RowSampler<Lanes, Random> sampler(
                   args.rows[i], args.vocab,
                   ScratchOfThread(args.scratch, args.vocab, thread));
               const SampleResult result = sampler.Sample();
               args.tokens[i] = result.token;
               args.status[i] = result.status;
             });
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_SAMPLE_LANES_H_
