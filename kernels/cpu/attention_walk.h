#ifndef KERNELS_CPU_ATTENTION_WALK_H_
#define KERNELS_CPU_ATTENTION_WALK_H_

#include <algorithm>
#include <limits>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/work_split.h"

// The walk over items, segments and tiles that every level shares. Path
// supplies the arithmetic:
//   static void LoadQueries(plan, item, float* q): the item's rows
//   static void Tile(plan, tile, rows): one tile into the rows' partials
//   static void Merge(plan, partial, segments, step, out): one row's segments,
//     `step` f32 apart, ascending

namespace sluice::kernels {

// One tile of keys against rows [first, end) of an item.
struct TileRows {
  const AttentionItem* item = nullptr;
  int64_t first = 0;  // row of the sequence; earlier rows see nothing here
  int64_t end = 0;
  const float* q = nullptr;  // of `first`
  float* scores = nullptr;   // of `first`
  float* partial = nullptr;  // of `first`, this segment
};

// Keys of `tile` that row `row` may see, 1 .. tile.keys.
[[gnu::always_inline]] inline int64_t VisibleKeys(const AttentionPlan& plan,
                                                  const AttentionItem& item,
                                                  const KeyTile& tile,
                                                  int64_t row) {
  return std::min(tile.keys, plan.Position(item, row) + 1 - tile.begin);
}

template <typename Path>
class AttentionWalk {
 public:
  explicit AttentionWalk(const AttentionPlan& plan) : plan_(plan) {}

  void Run(const OpContext& context) {
    if (plan_.units == 0) return;
    if (plan_.units == 1 || plan_.threads == 1) {
      const ComputeFloatMode mode;
      Work(0);
      return;
    }
    context.pool->Run([this](int thread) { Work(thread); });
  }

 private:
  void Work(int thread) {
    const AttentionThread scratch = plan_.Thread(thread);
    UnitCursor cursor(plan_);
    while (true) {
      const int64_t unit = next_.fetch_add(1, std::memory_order_relaxed);
      if (unit >= plan_.units) return;
      int64_t segment = 0;
      const AttentionItem item = cursor.Find(unit, &segment);
      Path::LoadQueries(plan_, item, scratch.q);
      if (!plan_.split) {
        for (segment = 0; segment < item.segments; ++segment) {
          Segment(item, segment, scratch, scratch.partials);
        }
        MergeRows(item, scratch.partials);
        continue;
      }
      float* partials =
          plan_.shared_partials + item.partial * plan_.partial_stride;
      Segment(item, segment, scratch, partials);
      if (plan_.pending[item.index].fetch_sub(1, std::memory_order_acq_rel) ==
          1) {
        MergeRows(item, partials);
      }
    }
  }

  // Partials of an item: [segments][rows].
  float* Partial(const AttentionItem& item, float* partials, int64_t segment,
                 int64_t row) const {
    const int64_t rows = item.row_end - item.row_begin;
    return partials +
           (segment * rows + row - item.row_begin) * plan_.partial_stride;
  }

  void Segment(const AttentionItem& item, int64_t segment,
               const AttentionThread& scratch, float* partials) {
    const int64_t last = plan_.Position(item, item.row_end - 1);
    const int64_t begin = segment * kSegmentKeys;
    const int64_t end = std::min(begin + kSegmentKeys, last + 1);
    for (int64_t row = item.row_begin; row < item.row_end; ++row) {
      float* partial = Partial(item, partials, segment, row);
      for (int64_t d = 0; d < plan_.m_at; ++d) partial[d] = 0;
      partial[plan_.m_at] = -std::numeric_limits<float>::infinity();
      partial[plan_.m_at + 1] = 0;
    }
    const int64_t before = plan_.args->kv_before[item.sequence];
    for (int64_t at = begin; at < end; at += kTileKeys) {
      const KeyTile tile = LoadKeyTile(plan_, item, at, end, scratch);
      TileRows rows;
      rows.item = &item;
      rows.first = std::max(item.row_begin,
                            std::max<int64_t>(0, at - before) * plan_.group);
      rows.end = item.row_end;
      const int64_t skipped = rows.first - item.row_begin;
      rows.q = scratch.q + skipped * plan_.q_stride;
      rows.scores = scratch.scores;
      rows.partial = Partial(item, partials, segment, rows.first);
      Path::Tile(plan_, tile, rows);
    }
  }

  void MergeRows(const AttentionItem& item, float* partials) {
    const AttentionArgs& args = *plan_.args;
    for (int64_t row = item.row_begin; row < item.row_end; ++row) {
      const int64_t token = args.q_off[item.sequence] + row / plan_.group;
      const int64_t head = item.kv_head * plan_.group + row % plan_.group;
      const int64_t segments = plan_.Position(item, row) / kSegmentKeys + 1;
      const int64_t step =
          (item.row_end - item.row_begin) * plan_.partial_stride;
      Path::Merge(plan_, Partial(item, partials, 0, row), segments, step,
                  args.out.Row(token) + head * plan_.head_dim);
    }
  }

  const AttentionPlan& plan_;
  std::atomic<int64_t> next_{0};
};

template <typename Path>
void AttentionOnPath(const OpContext& context, const AttentionArgs& args) {
  if (args.q.rows == 0) return;
  const AttentionPlan plan(args, context.pool->num_threads());
  AttentionWalk<Path>(plan).Run(context);
}

}  // namespace sluice::kernels

#endif  // KERNELS_CPU_ATTENTION_WALK_H_
