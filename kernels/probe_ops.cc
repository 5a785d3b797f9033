#include "kernels/probe_ops.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/aligned_bytes.h"
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/probe_vectors.h"
#include "kernels/rope_table.h"

namespace sluice::kernels {
namespace {

constexpr WeightFormat kFormats[] = {
    WeightFormat::kF32,  WeightFormat::kF16,  WeightFormat::kBF16,
    WeightFormat::kQ8_0, WeightFormat::kQ4_0, WeightFormat::kQ4_1,
    WeightFormat::kQ5_0, WeightFormat::kQ5_1, WeightFormat::kQ4_K,
    WeightFormat::kQ5_K, WeightFormat::kQ6_K};

// The least k of a product that is at least `k`.
int64_t WholeBlocks(WeightFormat format, int64_t k) {
  return std::max(k, BlockElements(format));
}

// Kinds whose results stay finite; on the others only products are specified
// to agree.
constexpr VectorKind kFiniteKinds[] = {
    VectorKind::kUnit,      VectorKind::kNearUnderflow, VectorKind::kCancelling,
    VectorKind::kSubnormal, VectorKind::kZeroGroups,    VectorKind::kThreshold};

std::vector<float> Vector(VectorSource& source, VectorKind kind, int64_t size) {
  std::vector<float> result(static_cast<size_t>(size));
  source.FillActivations(kind, absl::MakeSpan(result));
  return result;
}

MatrixView<float> View(std::vector<float>& values, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  return {values.data(), rows, cols, cols};
}
MatrixView<const float> ConstView(const std::vector<float>& values,
                                  int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  return {values.data(), rows, cols, cols};
}

struct Weights {
  AlignedBytes bytes;
  PackedMatrix matrix;
};

Weights MakeWeights(const OpContext& context, VectorSource& source,
                    const VectorSource::Weights& spec) {
  std::vector<uint8_t> stored(
      static_cast<size_t>(spec.rows * StoredRowBytes(spec.format, spec.k)));
  source.FillWeights(spec, stored.data());
  const StoredRows part = {stored.data(), spec.rows};
  Weights result = {
      .bytes = AlignedBytes(PackedBytes(spec.format, spec.rows, spec.k))};
  result.matrix = PackMatrix(context, {.format = spec.format,
                                       .k = spec.k,
                                       .parts = {&part, 1},
                                       .packed_bytes = result.bytes.data()});
  return result;
}

void RunEmbedding(const OpContext& context, const OpTable& table,
                  ProbeOutput& output) {
  VectorSource source(11);
  const std::vector<int32_t> ids = {18, 0, 7, 16, 15};
  for (WeightFormat format : kFormats) {
    const int64_t k = WholeBlocks(format, 64);
    const Weights w =
        MakeWeights(context, source, {.format = format, .rows = 19, .k = k});
    std::vector<float> y(ids.size() * static_cast<size_t>(k));
    table.embedding(context, {.ids = ids, .table = w.matrix, .y = View(y, 5)});
    output.AddFloats(y);
  }
}

void RunRmsNorm(const OpContext& context, const OpTable& table,
                ProbeOutput& output) {
  VectorSource source(12);
  for (VectorKind kind : kFiniteKinds) {
    for (int64_t hidden : {64, 333}) {
      const std::vector<float> x = Vector(source, kind, 3 * hidden);
      const std::vector<float> weight =
          Vector(source, VectorKind::kUnit, hidden);
      std::vector<float> y(x.size());
      table.rms_norm(context, {.x = ConstView(x, 3),
                               .weight = weight.data(),
                               .y = View(y, 3),
                               .epsilon = 1e-5f});
      output.AddFloats(y);
    }
  }
}

void RunPackActivations(const OpContext& context, const OpTable& table,
                        ProbeOutput& output) {
  VectorSource source(13);
  constexpr int64_t kManyRows = 19;
  for (int i = 0; i < kNumVectorKinds; ++i) {
    for (ActivationKind kind :
         {ActivationKind::kInt8Group32, ActivationKind::kBF16,
          ActivationKind::kF32, ActivationKind::kInt8Group256}) {
      // The last group is short where that may be.
      const int64_t k = kind == ActivationKind::kInt8Group256 ? 512 : 77;
      const std::vector<float> x =
          Vector(source, static_cast<VectorKind>(i), kManyRows * k);
      AlignedBytes bytes(ActivationBytes(kind, kManyRows, k));
      table.pack_activations(context, {.x = ConstView(x, kManyRows),
                                       .out = {.kind = kind,
                                               .rows = kManyRows,
                                               .k = k,
                                               .bytes = bytes.data()}});
      // What was packed when the id was fixed: rows of tiles repeat it, and
      // norm_pack compares those.
      const uint8_t* const tile_rows = reinterpret_cast<const uint8_t*>(
          BlockAt(
              {.kind = kind, .rows = kManyRows, .k = k, .bytes = bytes.data()},
              0)
              .tile_rows);
      const int64_t size =
          tile_rows == nullptr ? bytes.size() : tile_rows - bytes.data();
      output.AddBytes({bytes.data(), static_cast<size_t>(size)});
    }
  }
}

// Both widths of a scale, the short group of the one.
void RunNormPack(const OpContext& context, const OpTable& table,
                 ProbeOutput& output) {
  VectorSource source(23);
  constexpr int64_t kManyRows = 5;
  for (VectorKind vectors : kFiniteKinds) {
    for (ActivationKind kind :
         {ActivationKind::kInt8Group32, ActivationKind::kBF16,
          ActivationKind::kInt8Group256}) {
      const int64_t k = kind == ActivationKind::kInt8Group256 ? 512 : 333;
      const std::vector<float> x = Vector(source, vectors, kManyRows * k);
      const std::vector<float> weight = Vector(source, VectorKind::kUnit, k);
      AlignedBytes bytes(ActivationBytes(kind, kManyRows, k));
      table.pack_activations(context, {.x = ConstView(x, kManyRows),
                                       .out = {.kind = kind,
                                               .rows = kManyRows,
                                               .k = k,
                                               .bytes = bytes.data()},
                                       .norm_weight = weight.data(),
                                       .epsilon = 1e-5f});
      output.AddBytes({bytes.data(), static_cast<size_t>(bytes.size())});
    }
  }
}

struct MatmulProbe {
  WeightFormat format;
  VectorKind vectors;
  int64_t least_rows;
  int64_t n;
  int64_t k;
  int64_t most_rows = 8;
};

// least_rows .. most_rows rows by n columns.
void RunMatmulProbe(const OpContext& context, const OpTable& table,
                    const MatmulProbe& probe, ProbeOutput& output) {
  const int64_t most_rows = probe.most_rows;
  const ActivationKind kind = ActivationKindFor(probe.format);
  VectorSource source(100 + static_cast<uint64_t>(probe.vectors));
  const Weights w = MakeWeights(context, source,
                                {.format = probe.format,
                                 .kind = probe.vectors,
                                 .rows = probe.n,
                                 .k = probe.k});
  const std::vector<float> x =
      Vector(source, probe.vectors, most_rows * probe.k);
  const std::vector<float> bias = Vector(source, VectorKind::kUnit, probe.n);
  AlignedBytes bytes(ActivationBytes(kind, most_rows, probe.k));
  for (int64_t rows = probe.least_rows; rows <= most_rows; ++rows) {
    const Activations a = {
        .kind = kind, .rows = rows, .k = probe.k, .bytes = bytes.data()};
    PackActivationsPortable(
        context, {.x = {x.data(), rows, probe.k, probe.k}, .out = a});
    std::vector<float> y(static_cast<size_t>(rows * probe.n), 0.5f);
    table.matmul(context, {.a = a,
                           .w = w.matrix,
                           .bias = rows == 3 ? bias.data() : nullptr,
                           .y = View(y, rows),
                           .accumulate = rows == 3});
    output.AddFloats(y);
  }
}

// 1 .. 8 rows by 7 panels meet every shape of tile; one kind of vectors
// suffices for that.
void RunMatmul(const OpContext& context, const OpTable& table,
               ProbeOutput& output) {
  for (WeightFormat format : kFormats) {
    RunMatmulProbe(context, table,
                   {format, VectorKind::kUnit, 1, 101, WholeBlocks(format, 32)},
                   output);
    for (int i = 0; i < kNumVectorKinds; ++i) {
      RunMatmulProbe(
          context, table,
          {format, static_cast<VectorKind>(i), 8, 53, WholeBlocks(format, 64)},
          output);
    }
  }
}

// k of more groups than a level takes at once: the sums are put by and resumed.
int64_t LongK(WeightFormat format) {
  if (BlockElements(format) == kSuperElements) return 2304;
  return ActivationKindFor(format) == ActivationKind::kBF16 ? 544 : 2080;
}

// Blocks of 16 rows in a pair, alone, and of fewer rows; panels in a pair and
// alone: all of them in the share of one thread, whatever the pool has.
void RunBlockMatmul(const OpContext&, const OpTable& table,
                    ProbeOutput& output) {
  ThreadPool pool(1);
  const OpContext context = {.pool = &pool};
  for (WeightFormat format : kFormats) {
    if (ActivationKindFor(format) == ActivationKind::kF32) continue;
    const bool super = BlockElements(format) == kSuperElements;
    RunMatmulProbe(context, table,
                   {format, VectorKind::kUnit, 45, 21, LongK(format), 45},
                   output);
    for (int i = 0; i < kNumVectorKinds; ++i) {
      RunMatmulProbe(
          context, table,
          {format, static_cast<VectorKind>(i), 16, 5, super ? 256 : 160, 16},
          output);
    }
  }
}

// The whole of what a product does besides, at a tile of one panel and of two.
void RunGatedMatmul(const OpContext& context, const OpTable& table,
                    ProbeOutput& output) {
  constexpr int64_t kN = 128;
  for (WeightFormat format : kFormats) {
    VectorSource source(24);
    const int64_t k = WholeBlocks(format, 64);
    const ActivationKind kind = ActivationKindFor(format);
    const Weights w =
        MakeWeights(context, source, {.format = format, .rows = kN, .k = k});
    const std::vector<float> bias = Vector(source, VectorKind::kUnit, kN);
    const std::vector<float> norm = Vector(source, VectorKind::kUnit, k);
    for (int64_t rows : {1, 8}) {
      const std::vector<float> x = Vector(source, VectorKind::kUnit, rows * k);
      AlignedBytes bytes(ActivationBytes(kind, rows, k));
      const PackActivationsArgs pack = {
          .x = ConstView(x, rows),
          .out = {.kind = kind, .rows = rows, .k = k, .bytes = bytes.data()},
          .norm_weight = norm.data(),
          .epsilon = 1e-5f};
      std::vector<float> y(static_cast<size_t>(rows * kN / 2));
      const ActivationKind next = ActivationKind::kInt8Group32;
      AlignedBytes packed(ActivationBytes(next, rows, kN / 2));
      const Activations packed_y = {
          .kind = next, .rows = rows, .k = kN / 2, .bytes = packed.data()};
      MatmulArgs args = {.a = pack.out,
                         .w = w.matrix,
                         .bias = bias.data(),
                         .y = View(y, rows),
                         .pack = &pack,
                         .silu_mul = true};
      table.matmul(context, args);
      output.AddFloats(y);
      args.packed_y = &packed_y;
      table.matmul(context, args);
      output.AddBytes({packed.data(), static_cast<size_t>(packed.size())});
    }
  }
}

void RunRope(const OpContext& context, const OpTable& table,
             ProbeOutput& output) {
  VectorSource source(15);
  const RopeTableStorage storage({.rot = 48}, 100);
  const std::vector<int64_t> positions = {0, 1, 99, 37};
  for (VectorKind kind : kFiniteKinds) {
    for (RopePairs pairs : {RopePairs::kInterleaved, RopePairs::kHalf}) {
      std::vector<float> x = Vector(source, kind, 4 * 3 * 64);
      table.append_kv(context, {.rope = {.x = View(x, 4),
                                         .heads = 3,
                                         .head_dim = 64,
                                         .positions = positions,
                                         .table = storage.view(),
                                         .pairs = pairs}});
      output.AddFloats(x);
    }
  }
}

// A small cache of one layer and its memory.
struct Cache {
  AlignedBytes bytes;
  KvView view;
};

struct CacheForm {
  KvDtype dtype;
  KvOrder order;
};
constexpr CacheForm kCacheForms[] = {{KvDtype::kBF16, KvOrder::kCpuTiles},
                                     {KvDtype::kBF16, KvOrder::kCanonical},
                                     {KvDtype::kF32, KvOrder::kCanonical}};
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeadDim = 40;  // no multiple of 32: padding decides
constexpr int64_t kBlockTokens = 16;

Cache MakeCache(const CacheForm& form, int64_t num_blocks) {
  const int64_t element_bytes = form.dtype == KvDtype::kF32 ? 4 : 2;
  KvView view = {.num_blocks = num_blocks,
                 .block_tokens = kBlockTokens,
                 .kv_heads = kKvHeads,
                 .head_dim = kHeadDim,
                 .dtype = form.dtype,
                 .order = form.order};
  view.head_stride_bytes = kBlockTokens * kHeadDim * element_bytes;
  view.comp_stride_bytes = kKvHeads * view.head_stride_bytes;
  view.block_stride_bytes = 2 * view.comp_stride_bytes;
  Cache cache = {.bytes = AlignedBytes(num_blocks * view.block_stride_bytes)};
  view.base = cache.bytes.data();
  cache.view = view;
  return cache;
}

void RunWriteKv(const OpContext& context, const OpTable& table,
                ProbeOutput& output) {
  VectorSource source(16);
  const std::vector<int64_t> slots = {17, 16, -1, 31, 33, 47, 32};
  const int64_t rows = static_cast<int64_t>(slots.size());
  for (VectorKind kind : kFiniteKinds) {
    const std::vector<float> k =
        Vector(source, kind, rows * kKvHeads * kHeadDim);
    const std::vector<float> v =
        Vector(source, kind, rows * kKvHeads * kHeadDim);
    for (const CacheForm& form : kCacheForms) {
      const Cache cache = MakeCache(form, 3);
      table.append_kv(context, {.write = {.k = ConstView(k, rows),
                                          .v = ConstView(v, rows),
                                          .slots = slots,
                                          .kv = cache.view}});
      output.AddBytes(
          {cache.bytes.data(), static_cast<size_t>(cache.bytes.size())});
    }
  }
}

void RunCopyBlocks(const OpContext& context, const OpTable& table,
                   ProbeOutput& output) {
  constexpr int64_t kBlockBytes = 320;
  AlignedBytes pool(5 * kBlockBytes);
  VectorSource source(17);
  for (int64_t i = 0; i < pool.size(); ++i) {
    pool.data()[i] = static_cast<uint8_t>(source.Bits());
  }
  const std::vector<BlockCopyPair> pairs = {{1, 3}, {2, 4}};
  table.copy_blocks(
      context,
      {.base = pool.data(), .block_stride_bytes = kBlockBytes, .pairs = pairs});
  output.AddBytes({pool.data(), static_cast<size_t>(pool.size())});
}

// Three sequences: one ends inside a tile of 64 keys, one has a first token,
// one crosses a segment of 512.
constexpr int64_t kHeads = 4;
constexpr uint32_t kQueryOffsets[] = {0, 5, 8, 9};
constexpr uint32_t kKeysBefore[] = {61, 0, 520};
constexpr int64_t kRows = 9;
constexpr int64_t kTableWidth = 33;
constexpr int64_t kBlocks = 1 + 5 + 1 + 33;

std::vector<uint32_t> BlockTable() {
  std::vector<uint32_t> blocks(3 * kTableWidth, 0);
  uint32_t next = 1;
  for (int64_t s = 0; s < 3; ++s) {
    const int64_t keys =
        kKeysBefore[s] + kQueryOffsets[s + 1] - kQueryOffsets[s];
    for (int64_t b = 0; b * kBlockTokens < keys; ++b) {
      blocks[static_cast<size_t>(s * kTableWidth + b)] = next++;
    }
  }
  return blocks;
}

void RunAttention(const OpContext& context, const OpTable& table,
                  ProbeOutput& output) {
  VectorSource source(18);
  const std::vector<uint32_t> blocks = BlockTable();
  constexpr int64_t kSlots = kBlocks * kBlockTokens;
  constexpr int64_t kWidth = kKvHeads * kHeadDim;
  std::vector<int64_t> slots(kSlots);
  std::iota(slots.begin(), slots.end(), 0);
  const std::vector<float> k =
      Vector(source, VectorKind::kUnit, kSlots * kWidth);
  const std::vector<float> v =
      Vector(source, VectorKind::kUnit, kSlots * kWidth);
  const std::vector<float> q =
      Vector(source, VectorKind::kUnit, kRows * kHeads * kHeadDim);
  AlignedBytes scratch(
      AttentionScratchBytes({.max_tokens = kRows,
                             .max_kv_len = kTableWidth * kBlockTokens,
                             .heads = kHeads,
                             .head_dim = kHeadDim,
                             .threads = context.pool->num_threads()}));
  for (const CacheForm& form : kCacheForms) {
    const Cache cache = MakeCache(form, kBlocks);
    AppendKvPortable(context, {.write = {.k = ConstView(k, kSlots),
                                         .v = ConstView(v, kSlots),
                                         .slots = slots,
                                         .kv = cache.view}});
    std::vector<float> out(q.size());
    table.attention(context, {.q = ConstView(q, kRows),
                              .out = View(out, kRows),
                              .heads = kHeads,
                              .q_off = kQueryOffsets,
                              .kv_before = kKeysBefore,
                              .block_table = blocks.data(),
                              .table_width = kTableWidth,
                              .kv = cache.view,
                              .scale = 0.5f,
                              .scratch = scratch.data()});
    output.AddFloats(out);
  }
}

void RunSiluMul(const OpContext& context, const OpTable& table,
                ProbeOutput& output) {
  VectorSource source(19);
  for (VectorKind kind : kFiniteKinds) {
    const std::vector<float> gate = Vector(source, kind, 2 * 333);
    const std::vector<float> up = Vector(source, VectorKind::kUnit, 2 * 333);
    std::vector<float> y(gate.size());
    table.silu_mul(
        context,
        {.gate = ConstView(gate, 2), .up = ConstView(up, 2), .y = View(y, 2)});
    output.AddFloats(y);
  }
}

void RunAdd(const OpContext& context, const OpTable& table,
            ProbeOutput& output) {
  VectorSource source(20);
  for (VectorKind kind : kFiniteKinds) {
    const std::vector<float> a = Vector(source, kind, 2 * 333);
    const std::vector<float> b = Vector(source, kind, 2 * 333);
    std::vector<float> y(a.size());
    table.add(context,
              {.a = ConstView(a, 2), .b = ConstView(b, 2), .y = View(y, 2)});
    output.AddFloats(y);
  }
}

constexpr int64_t kVocab = 1003;

std::vector<float> Logits(VectorSource& source) {
  std::vector<float> logits = Vector(source, VectorKind::kUnit, kVocab);
  for (float& x : logits) x *= 4;
  return logits;
}

void RunSample(const OpContext& context, const OpTable& table,
               ProbeOutput& output) {
  VectorSource source(21);
  const std::vector<float> logits = Logits(source);
  const std::vector<TokenCount> counts = {{5, 2}, {700, 0}, {1002, 1}};
  const std::vector<TokenBias> bias = {{3, 2.5f}, {998, -1.0f}};
  const std::vector<int32_t> banned = {0, 640};
  std::vector<uint32_t> allowed((kVocab + 31) / 32);
  for (uint32_t& word : allowed) word = source.Bits();
  std::vector<SampleRow> rows;
  for (int32_t i = 0; i < 24; ++i) {
    SampleRow row = {.logits = logits.data(),
                     .temperature = i % 8 == 0 ? 0.0f : 0.5f + 0.1f * i,
                     .top_k = i % 3 == 1 ? 20 : 0,
                     .top_p = i % 4 == 2 ? 0.8f : 1.0f,
                     .min_p = i % 5 == 3 ? 0.05f : 0.0f,
                     .seed = static_cast<uint64_t>(i) * 77,
                     .position = 100 + i};
    if (i % 2 == 1) {
      row.repetition_penalty = 1.3f;
      row.frequency_penalty = 0.4f;
      row.presence_penalty = -0.2f;
      row.counts = counts;
      row.bias = bias;
      row.banned = banned;
    }
    if (i % 6 == 5) row.allowed = allowed.data();
    rows.push_back(row);
  }
  AlignedBytes scratch(SampleScratchBytes(kVocab, context.pool->num_threads()));
  std::vector<int32_t> tokens(rows.size());
  std::vector<SampleStatus> status(rows.size());
  table.sample(context, {.rows = rows,
                         .vocab = kVocab,
                         .scratch = scratch.data(),
                         .tokens = tokens.data(),
                         .status = status.data()});
  output.AddBytes({reinterpret_cast<const uint8_t*>(tokens.data()),
                   tokens.size() * sizeof(tokens[0])});
  output.AddBytes({reinterpret_cast<const uint8_t*>(status.data()),
                   status.size() * sizeof(status[0])});
}

void RunLogprobs(const OpContext& context, const OpTable& table,
                 ProbeOutput& output) {
  VectorSource source(22);
  const std::vector<float> logits = Logits(source);
  std::vector<float> logprob(3);
  std::vector<TopLogprob> top(3 * 5);
  std::vector<LogprobsRow> rows;
  for (int32_t i = 0; i < 3; ++i) {
    rows.push_back({.logits = logits.data(),
                    .token = i * 500,
                    .num_top = 5,
                    .logprob = &logprob[static_cast<size_t>(i)],
                    .top = &top[static_cast<size_t>(i) * 5]});
  }
  table.logprobs(context, {.rows = rows, .vocab = kVocab});
  output.AddFloats(logprob);
  output.AddBytes({reinterpret_cast<const uint8_t*>(top.data()),
                   top.size() * sizeof(top[0])});
}

// The names are those of the arithmetic, of which an op may do several: they
// enter the id and stay when ops are fused.
constexpr ProbedOp kOps[] = {
    {"embedding", true, RunEmbedding,
     [](OpTable& to, const OpTable& from) { to.embedding = from.embedding; },
     "embedding"},
    {"rms_norm", true, RunRmsNorm,
     [](OpTable& to, const OpTable& from) { to.rms_norm = from.rms_norm; },
     "rms_norm"},
    {"pack_activations", true, RunPackActivations,
     [](OpTable& to, const OpTable& from) {
       to.pack_activations = from.pack_activations;
     },
     "pack_activations"},
    {"matmul", true, RunMatmul,
     [](OpTable& to, const OpTable& from) { to.matmul = from.matmul; },
     "matmul"},
    {"norm_pack", false, RunNormPack,
     [](OpTable& to, const OpTable& from) {
       to.pack_activations = from.pack_activations;
     },
     "pack_activations"},
    {"gated_matmul", false, RunGatedMatmul,
     [](OpTable& to, const OpTable& from) { to.matmul = from.matmul; },
     "matmul"},
    {"block_matmul", false, RunBlockMatmul,
     [](OpTable& to, const OpTable& from) { to.matmul = from.matmul; },
     "matmul", Isa::kAmx},
    {"rope", true, RunRope,
     [](OpTable& to, const OpTable& from) { to.append_kv = from.append_kv; },
     "append_kv"},
    {"write_kv", true, RunWriteKv,
     [](OpTable& to, const OpTable& from) { to.append_kv = from.append_kv; },
     "append_kv"},
    {"copy_blocks", true, RunCopyBlocks,
     [](OpTable& to, const OpTable& from) {
       to.copy_blocks = from.copy_blocks;
     },
     "copy_blocks"},
    {"attention", true, RunAttention,
     [](OpTable& to, const OpTable& from) { to.attention = from.attention; },
     "attention"},
    {"silu_mul", true, RunSiluMul,
     [](OpTable& to, const OpTable& from) { to.silu_mul = from.silu_mul; },
     "silu_mul"},
    {"add", true, RunAdd,
     [](OpTable& to, const OpTable& from) { to.add = from.add; }, "add"},
    {"sample", true, RunSample,
     [](OpTable& to, const OpTable& from) { to.sample = from.sample; },
     "sample"},
    {"logprobs", true, RunLogprobs,
     [](OpTable& to, const OpTable& from) { to.logprobs = from.logprobs; },
     "logprobs"},
};

}  // namespace

void ProbeOutput::AddFloats(absl::Span<const float> values) {
  for (float value : values) {
    uint32_t bits = 0x7fc00000;
    if (value == value) std::memcpy(&bits, &value, sizeof(bits));
    bytes_.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
}

void ProbeOutput::AddBytes(absl::Span<const uint8_t> bytes) {
  bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::Span<const ProbedOp> ProbedOps() { return kOps; }

}  // namespace sluice::kernels
