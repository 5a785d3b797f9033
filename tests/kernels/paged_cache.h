#ifndef TESTS_KERNELS_PAGED_CACHE_H_
#define TESTS_KERNELS_PAGED_CACHE_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/aligned_bytes.h"
#include "kernels/attention.h"
#include "kernels/kv_copy.h"
#include "kernels/op_table.h"
#include "kernels/quant/bf16.h"

namespace sluice::kernels {

struct CacheShape {
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 64;
  int64_t block_tokens = 64;
  KvDtype dtype = KvDtype::kBF16;
  KvOrder order = KvOrder::kCpuTiles;
};

// Rows of one sequence: q, k, v of every position.
struct SequenceRows {
  std::vector<float> q;  // [length, heads * head_dim]
  std::vector<float> k;  // [length, kv_heads * head_dim]
  std::vector<float> v;
};

// Unit normal; q is a bf16 value already when the cache is bf16.
inline SequenceRows MakeRows(const CacheShape& shape, int64_t length,
                             uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  SequenceRows rows;
  rows.q.resize(length * shape.heads * shape.head_dim);
  rows.k.resize(length * shape.kv_heads * shape.head_dim);
  rows.v.resize(rows.k.size());
  for (float& x : rows.q) {
    x = normal(rng);
    if (shape.dtype == KvDtype::kBF16) x = Bf16ToF32(F32ToBf16(x));
  }
  for (float& x : rows.k) x = normal(rng);
  for (float& x : rows.v) x = normal(rng);
  return rows;
}

// A pool of one layer filled with NaN, the null block too, and shuffled block
// tables for `seqs` sequences of at most `max_tokens`.
class PagedCache {
 public:
  PagedCache(const CacheShape& shape, int64_t seqs, int64_t max_tokens,
             uint32_t seed)
      : shape_(shape),
        width_((max_tokens + shape.block_tokens - 1) / shape.block_tokens + 1),
        table_(seqs * width_, 0) {
    const int64_t element = shape.dtype == KvDtype::kF32 ? 4 : 2;
    const int64_t head = shape.block_tokens * shape.head_dim * element;
    view_ = {.num_blocks = 1 + seqs * (width_ - 1),
             .block_stride_bytes = 2 * shape.kv_heads * head,
             .comp_stride_bytes = shape.kv_heads * head,
             .head_stride_bytes = head,
             .block_tokens = shape.block_tokens,
             .kv_heads = shape.kv_heads,
             .head_dim = shape.head_dim,
             .dtype = shape.dtype,
             .order = shape.order};
    // Alignment of the real pool.
    view_.block_stride_bytes = (view_.block_stride_bytes + 255) / 256 * 256;
    pool_ = AlignedBytes(view_.num_blocks * view_.block_stride_bytes);
    std::fill(pool_.data(), pool_.data() + pool_.size(), uint8_t{0xff});
    view_.base = pool_.data();
    std::vector<uint32_t> ids;
    for (uint32_t b = 1; b < view_.num_blocks; ++b) ids.push_back(b);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(seed));
    for (int64_t s = 0; s < seqs; ++s) {
      for (int64_t i = 0; i + 1 < width_; ++i) {
        table_[s * width_ + i] = ids[s * (width_ - 1) + i];
      }
    }
  }

  const CacheShape& shape() const { return shape_; }
  const KvView& view() const { return view_; }
  int64_t width() const { return width_; }
  const uint32_t* table() const { return table_.data(); }
  AlignedBytes& pool() { return pool_; }

  int64_t Slot(int64_t sequence, int64_t position) const {
    return int64_t{table_[sequence * width_ + position / shape_.block_tokens]} *
               shape_.block_tokens +
           position % shape_.block_tokens;
  }

  // Writes positions [begin, end) of `rows` as sequence `sequence`.
  void Write(const OpContext& context, const OpTable& ops, int64_t sequence,
             const SequenceRows& rows, int64_t begin, int64_t end) {
    const int64_t cols = shape_.kv_heads * shape_.head_dim;
    std::vector<int64_t> slots;
    for (int64_t p = begin; p < end; ++p) slots.push_back(Slot(sequence, p));
    ops.append_kv(
        context,
        {.write = {.k = {rows.k.data() + begin * cols, end - begin, cols, cols},
                   .v = {rows.v.data() + begin * cols, end - begin, cols, cols},
                   .slots = slots,
                   .kv = view_}});
  }

 private:
  CacheShape shape_;
  int64_t width_;
  std::vector<uint32_t> table_;
  KvView view_;
  AlignedBytes pool_;
};

// One sequence's share of a step: its rows [begin, end).
struct StepPart {
  int64_t sequence = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

// The inputs of one attention call over parts of several sequences.
class AttentionStep {
 public:
  AttentionStep(const PagedCache& cache, const std::vector<SequenceRows>& rows,
                const std::vector<StepPart>& parts)
      : cache_(cache) {
    const CacheShape& shape = cache.shape();
    cols_ = shape.heads * shape.head_dim;
    q_off_.push_back(0);
    for (const StepPart& part : parts) {
      const std::vector<float>& q = rows[part.sequence].q;
      q_.insert(q_.end(), q.begin() + part.begin * cols_,
                q.begin() + part.end * cols_);
      q_off_.push_back(q_off_.back() +
                       static_cast<uint32_t>(part.end - part.begin));
      kv_before_.push_back(static_cast<uint32_t>(part.begin));
      table_.insert(table_.end(), cache.table() + part.sequence * cache.width(),
                    cache.table() + (part.sequence + 1) * cache.width());
      max_kv_ = std::max(max_kv_, part.end);
    }
    out_.assign(q_.size(), std::numeric_limits<float>::quiet_NaN());
  }

  AttentionArgs Args() {
    const int64_t rows = q_off_.back();
    return {.q = {q_.data(), rows, cols_, cols_},
            .out = {out_.data(), rows, cols_, cols_},
            .heads = cache_.shape().heads,
            .q_off = q_off_,
            .kv_before = kv_before_,
            .block_table = table_.data(),
            .table_width = cache_.width(),
            .kv = cache_.view(),
            .scale = 1.0f / std::sqrt(float(cache_.shape().head_dim)),
            .scratch = scratch_.data()};
  }

  const std::vector<float>& Run(const OpContext& context, int threads,
                                const OpTable& ops) {
    scratch_ =
        AlignedBytes(AttentionScratchBytes({.max_tokens = q_off_.back(),
                                            .max_kv_len = max_kv_,
                                            .heads = cache_.shape().heads,
                                            .head_dim = cache_.shape().head_dim,
                                            .threads = threads}));
    // Scratch holds anything at first.
    std::fill(scratch_.data(), scratch_.data() + scratch_.size(),
              uint8_t{0xff});
    ops.attention(context, Args());
    return out_;
  }

 private:
  const PagedCache& cache_;
  int64_t cols_ = 0;
  int64_t max_kv_ = 0;
  std::vector<float> q_;
  std::vector<float> out_;
  std::vector<uint32_t> q_off_;
  std::vector<uint32_t> kv_before_;
  std::vector<uint32_t> table_;
  AlignedBytes scratch_;
};

}  // namespace sluice::kernels

#endif  // TESTS_KERNELS_PAGED_CACHE_H_
