#ifndef KERNELS_CPU_ATTENTION_PLAN_H_
#define KERNELS_CPU_ATTENTION_PLAN_H_

#include <atomic>
#include <cstdint>

#include "kernels/attention.h"

// How one attention call is cut into work, the same for every level. Nothing
// here touches a float that reaches the result.

namespace sluice::kernels {

inline constexpr int64_t kTileKeys = 64;
inline constexpr int64_t kSegmentKeys = 512;
// Rows that share one walk over the keys: (query token, head) pairs of one KV
// head, token-major.
inline constexpr int64_t kRowBlock = 32;

// A sequence's rows under one KV head, at most kRowBlock of them.
struct AttentionItem {
  int64_t sequence = 0;
  int64_t kv_head = 0;
  int64_t row_begin = 0;  // row = local token * group + head within the group
  int64_t row_end = 0;
  int64_t segments = 0;  // of the sequence
  int64_t index = 0;     // counts items of the call
  int64_t partial = 0;   // first (segment, row) pair of this item
};

// The keys [begin, begin + keys) of one KV head, ready to multiply.
//   bf16  k[g] is 16 tokens as [head_dim / 2][16][2], v[g] as [8][head_dim][2];
//         v of tokens at or past `keys` is +0, k of such tokens is anything
//   f32   k_f32 is [4][head_dim][16], v_f32 is [keys][head_dim]
struct KeyTile {
  int64_t begin = 0;
  int64_t keys = 0;
  const uint16_t* k[4] = {};
  const uint16_t* v[4] = {};
  const float* k_f32 = nullptr;
  const float* v_f32 = nullptr;
  // Groups of the tile that comes next, to be fetched while this one is
  // multiplied; any readable address where none does.
  const uint16_t* k_ahead[4] = {};
  const uint16_t* v_ahead[4] = {};
};

// Scratch of one thread.
struct AttentionThread {
  float* q = nullptr;       // [kRowBlock, q_stride]
  float* scores = nullptr;  // [kRowBlock, kTileKeys]
  uint8_t* k_tile = nullptr;
  uint8_t* v_tile = nullptr;
  float* partials = nullptr;  // [segments, kRowBlock, partial_stride]
};

// One call's constants. A partial is [partial_stride] f32: the undivided
// product in the first head_dim, m and l at m_at and m_at + 1, room for the
// merge after them.
struct AttentionPlan {
  explicit AttentionPlan(const AttentionArgs& args, int threads);

  AttentionThread Thread(int thread) const;
  int64_t Position(const AttentionItem& item, int64_t row) const {
    return args->kv_before[item.sequence] + row / group;
  }

  const AttentionArgs* args;
  int64_t threads;
  int64_t head_dim;
  int64_t group;           // query heads per KV head
  int64_t q_stride;        // head_dim rounded up to 16
  int64_t m_at;            // = q_stride
  int64_t partial_stride;  // q_stride + 16
  int64_t max_segments = 0;
  int64_t items = 0;
  int64_t units = 0;  // items, or (item, segment) pairs if `split`
  bool split = false;
  std::atomic<int32_t>* pending;  // [items] segments not done, if `split`
  float* shared_partials;         // all threads' partials, if `split`
};

// Finds units in ascending order; unit 0 is the last item, whose rows see the
// most keys, so that the longest work starts first.
class UnitCursor {
 public:
  explicit UnitCursor(const AttentionPlan& plan);

  // `segment` is only set for split calls. Units asked for must not descend.
  AttentionItem Find(int64_t unit, int64_t* segment);

 private:
  int64_t ItemsOf(int64_t sequence) const;

  const AttentionPlan& plan_;
  int64_t sequence_;
  int64_t first_unit_ = 0;
  int64_t first_item_ = 0;
  int64_t first_partial_ = 0;
};

// The tile of keys from `begin` on, at most up to `end`, of the item's KV head;
// points into the cache or into `thread`'s tiles. Entries at or past `end` are
// never used.
KeyTile LoadKeyTile(const AttentionPlan& plan, const AttentionItem& item,
                    int64_t begin, int64_t end, const AttentionThread& thread);

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ATTENTION_PLAN_H_
