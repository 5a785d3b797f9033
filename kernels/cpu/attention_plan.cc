#include "kernels/cpu/attention_plan.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"

namespace sluice::kernels {
namespace {

// Calls with more items than this per thread balance well without splitting.
constexpr int64_t kSplitItemsPerThread = 8;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PaddedDim(int64_t head_dim) { return CeilDiv(head_dim, 16) * 16; }

int64_t TileBytes(int64_t head_dim) {
  return kTileKeys * PaddedDim(head_dim) * 4;
}

int64_t PartialBytes(int64_t head_dim, int64_t segments) {
  return segments * kRowBlock * (PaddedDim(head_dim) + 16) * 4;
}

// Of one thread, without its partials.
int64_t ThreadBytes(int64_t head_dim) {
  return kRowBlock * PaddedDim(head_dim) * 4 + kRowBlock * kTileKeys * 4 +
         2 * TileBytes(head_dim);
}

int64_t PendingBytes(int64_t threads) {
  return CeilDiv(kSplitItemsPerThread * threads * 4, 64) * 64;
}

void CheckArgs(const AttentionArgs& args) {
  const KvView& kv = args.kv;
  SLUICE_CHECK(kv.kv_heads > 0 && args.heads % kv.kv_heads == 0);
  SLUICE_CHECK(kv.head_dim > 0 && kv.head_dim % 8 == 0 && kv.head_dim <= 512);
  SLUICE_CHECK(kv.block_tokens >= 8 && kv.block_tokens <= 256 &&
               (kv.block_tokens & (kv.block_tokens - 1)) == 0);
  SLUICE_CHECK(kv.order == KvOrder::kCanonical ||
               (kv.dtype == KvDtype::kBF16 && kv.block_tokens >= 16));
  SLUICE_CHECK(args.q_off.size() == args.kv_before.size() + 1);
  SLUICE_CHECK(args.q_off[0] == 0 && args.q_off.back() == args.q.rows);
  SLUICE_CHECK(args.q.cols == args.heads * kv.head_dim &&
               args.out.cols == args.q.cols && args.out.rows == args.q.rows);
}

// First byte of entry `position` of `comp` in its block.
const uint8_t* Entry(const AttentionPlan& plan, const AttentionItem& item,
                     int64_t position, int comp) {
  const AttentionArgs& args = *plan.args;
  const KvView& kv = args.kv;
  const uint32_t block = args.block_table[item.sequence * args.table_width +
                                          position / kv.block_tokens];
  const int64_t offset = position % kv.block_tokens;
  const int64_t element_bytes = kv.dtype == KvDtype::kF32 ? 4 : 2;
  return kv.base + block * kv.block_stride_bytes + comp * kv.comp_stride_bytes +
         item.kv_head * kv.head_stride_bytes +
         offset * kv.head_dim * element_bytes;
}

// `keys` (at most 16) canonical rows of bf16 as a K group and a V group.
void GatherCanonicalGroup(const AttentionPlan& plan, const AttentionItem& item,
                          int64_t begin, int64_t keys, uint16_t* k,
                          uint16_t* v) {
  const int64_t dim = plan.head_dim;
  std::memset(k, 0, 16 * dim * 2);
  std::memset(v, 0, 16 * dim * 2);
  for (int64_t t = 0; t < keys; ++t) {
    const uint8_t* key = Entry(plan, item, begin + t, 0);
    const uint8_t* value = Entry(plan, item, begin + t, 1);
    for (int64_t d = 0; d < dim; d += 2) {
      std::memcpy(k + (d / 2 * 16 + t) * 2, key + d * 2, 4);
    }
    for (int64_t d = 0; d < dim; ++d) {
      std::memcpy(v + (t / 2 * dim + d) * 2 + t % 2, value + d * 2, 2);
    }
  }
}

// A V group whose tokens at or past `keys` are unwritten: they read as +0.
void CopyPartialValues(const uint16_t* from, int64_t keys, int64_t dim,
                       uint16_t* to) {
  std::memset(to, 0, 16 * dim * 2);
  std::memcpy(to, from, keys / 2 * 2 * dim * 2);
  if (keys % 2 == 0) return;
  const int64_t last = (keys - 1) * dim;
  for (int64_t d = 0; d < dim; ++d) to[last + d * 2] = from[last + d * 2];
}

void LoadBf16Tile(const AttentionPlan& plan, const AttentionItem& item,
                  const AttentionThread& thread, KeyTile* tile) {
  const int64_t dim = plan.head_dim;
  for (int64_t g = 0; g * 16 < tile->keys; ++g) {
    const int64_t begin = tile->begin + g * 16;
    const int64_t keys = std::min<int64_t>(16, tile->keys - g * 16);
    auto* k = reinterpret_cast<uint16_t*>(thread.k_tile) + g * 16 * dim;
    auto* v = reinterpret_cast<uint16_t*>(thread.v_tile) + g * 16 * dim;
    if (plan.args->kv.order == KvOrder::kCanonical) {
      GatherCanonicalGroup(plan, item, begin, keys, k, v);
      tile->k[g] = k;
      tile->v[g] = v;
      continue;
    }
    tile->k[g] = reinterpret_cast<const uint16_t*>(Entry(plan, item, begin, 0));
    tile->v[g] = reinterpret_cast<const uint16_t*>(Entry(plan, item, begin, 1));
    if (keys < 16) {
      CopyPartialValues(tile->v[g], keys, dim, v);
      tile->v[g] = v;
    }
  }
}

void LoadF32Tile(const AttentionPlan& plan, const AttentionItem& item,
                 const AttentionThread& thread, KeyTile* tile) {
  const int64_t dim = plan.head_dim;
  auto* k = reinterpret_cast<float*>(thread.k_tile);
  auto* v = reinterpret_cast<float*>(thread.v_tile);
  for (int64_t t = 0; t < tile->keys; ++t) {
    const auto* key =
        reinterpret_cast<const float*>(Entry(plan, item, tile->begin + t, 0));
    float* group = k + t / 16 * 16 * dim + t % 16;
    for (int64_t d = 0; d < dim; ++d) group[d * 16] = key[d];
    std::memcpy(v + t * dim, Entry(plan, item, tile->begin + t, 1), dim * 4);
  }
  tile->k_f32 = k;
  tile->v_f32 = v;
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionArgs& call, int num_threads)
    : args(&call),
      threads(num_threads),
      head_dim(call.kv.head_dim),
      group(call.heads / std::max<int64_t>(1, call.kv.kv_heads)),
      q_stride(PaddedDim(head_dim)),
      m_at(q_stride),
      partial_stride(q_stride + 16) {
  CheckArgs(call);
  int64_t row_segments = 0;
  int64_t item_segments = 0;
  for (size_t i = 0; i < call.kv_before.size(); ++i) {
    const int64_t rows = call.q_off[i + 1] - call.q_off[i];
    if (rows == 0) continue;
    const int64_t keys = call.kv_before[i] + rows;
    SLUICE_CHECK(keys <= call.table_width * call.kv.block_tokens);
    const int64_t segments = CeilDiv(keys, kSegmentKeys);
    const int64_t of_sequence =
        call.kv.kv_heads * CeilDiv(rows * group, kRowBlock);
    max_segments = std::max(max_segments, segments);
    row_segments += rows * call.heads * segments;
    item_segments += of_sequence * segments;
    items += of_sequence;
  }
  split = max_segments > 1 && items < kSplitItemsPerThread * threads &&
          row_segments <= threads * kRowBlock * max_segments;
  units = split ? item_segments : items;
  SLUICE_CHECK(items == 0 || call.scratch != nullptr);
  pending = reinterpret_cast<std::atomic<int32_t>*>(call.scratch);
  shared_partials = reinterpret_cast<float*>(
      call.scratch + PendingBytes(threads) + threads * ThreadBytes(head_dim));
  if (!split) return;
  UnitCursor cursor(*this);
  int64_t segment = 0;
  for (int64_t unit = 0; unit < units;) {
    const AttentionItem item = cursor.Find(unit, &segment);
    new (&pending[item.index])
        std::atomic<int32_t>(static_cast<int32_t>(item.segments));
    unit += item.segments;
  }
}

AttentionThread AttentionPlan::Thread(int thread) const {
  uint8_t* at =
      args->scratch + PendingBytes(threads) + thread * ThreadBytes(head_dim);
  AttentionThread result;
  result.q = reinterpret_cast<float*>(at);
  at += kRowBlock * q_stride * 4;
  result.scores = reinterpret_cast<float*>(at);
  at += kRowBlock * kTileKeys * 4;
  result.k_tile = at;
  result.v_tile = at + TileBytes(head_dim);
  result.partials =
      shared_partials + thread * max_segments * kRowBlock * partial_stride;
  return result;
}

UnitCursor::UnitCursor(const AttentionPlan& plan)
    : plan_(plan),
      sequence_(static_cast<int64_t>(plan.args->kv_before.size()) - 1) {}

int64_t UnitCursor::ItemsOf(int64_t sequence) const {
  const int64_t rows =
      plan_.args->q_off[sequence + 1] - plan_.args->q_off[sequence];
  return plan_.args->kv.kv_heads * CeilDiv(rows * plan_.group, kRowBlock);
}

AttentionItem UnitCursor::Find(int64_t unit, int64_t* segment) {
  const AttentionArgs& args = *plan_.args;
  while (true) {
    const int64_t rows = args.q_off[sequence_ + 1] - args.q_off[sequence_];
    const int64_t keys = args.kv_before[sequence_] + rows;
    const int64_t segments = CeilDiv(keys, kSegmentKeys);
    const int64_t items = ItemsOf(sequence_);
    const int64_t units = plan_.split ? items * segments : items;
    if (unit >= first_unit_ + units) {
      first_unit_ += units;
      first_item_ += items;
      first_partial_ += rows * args.heads * segments;
      --sequence_;
      continue;
    }
    const int64_t local = unit - first_unit_;
    const int64_t local_item = plan_.split ? local / segments : local;
    if (plan_.split) *segment = local % segments;
    const int64_t blocks = items / args.kv.kv_heads;
    AttentionItem item;
    item.sequence = sequence_;
    item.kv_head = local_item / blocks;
    // Later rows see more keys.
    const int64_t block = blocks - 1 - local_item % blocks;
    item.row_begin = block * kRowBlock;
    item.row_end = std::min(item.row_begin + kRowBlock, rows * plan_.group);
    item.segments = segments;
    item.index = first_item_ + local_item;
    item.partial =
        first_partial_ +
        (item.kv_head * rows * plan_.group + item.row_begin) * segments;
    return item;
  }
}

KeyTile LoadKeyTile(const AttentionPlan& plan, const AttentionItem& item,
                    int64_t begin, int64_t end, const AttentionThread& thread) {
  KeyTile tile;
  tile.begin = begin;
  tile.keys = std::min(kTileKeys, end - begin);
  if (plan.args->kv.dtype == KvDtype::kF32) {
    LoadF32Tile(plan, item, thread, &tile);
    return tile;
  }
  LoadBf16Tile(plan, item, thread, &tile);
  for (int64_t g = 0; g < 4; ++g) {
    const int64_t next = begin + kTileKeys + g * 16;
    const bool stored = next < end && plan.args->kv.order == KvOrder::kCpuTiles;
    tile.k_ahead[g] =
        stored ? reinterpret_cast<const uint16_t*>(Entry(plan, item, next, 0))
               : tile.k[0];
    tile.v_ahead[g] =
        stored ? reinterpret_cast<const uint16_t*>(Entry(plan, item, next, 1))
               : tile.v[0];
  }
  return tile;
}

int64_t AttentionScratchBytes(const AttentionLimits& limits) {
  return PendingBytes(limits.threads) +
         limits.threads *
             (ThreadBytes(limits.head_dim) +
              PartialBytes(limits.head_dim,
                           CeilDiv(limits.max_kv_len, kSegmentKeys)));
}

}  // namespace sluice::kernels
