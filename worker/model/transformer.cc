#include "worker/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

using kernels::MatrixView;
using kernels::OpContext;
using kernels::OpTable;

// Products run over this many rows at a time, so that their operands stay in
// the cache; rows are independent, so it never shows in a result.
constexpr int64_t kSliceRows = 256;

MatrixView<float> View(float* data, int64_t rows, int64_t cols,
                       int64_t stride) {
  return {.data = data, .rows = rows, .cols = cols, .stride = stride};
}

MatrixView<const float> Const(const MatrixView<float>& view) {
  return {.data = view.data,
          .rows = view.rows,
          .cols = view.cols,
          .stride = view.stride};
}

MatrixView<float> Rows(const MatrixView<float>& view, int64_t begin,
                       int64_t end) {
  return View(view.Row(begin), end - begin, view.cols, view.stride);
}

// Columns [begin, begin + cols).
MatrixView<float> Columns(const MatrixView<float>& view, int64_t begin,
                          int64_t cols) {
  return View(view.data + begin, view.rows, cols, view.stride);
}

// Norm of each of `heads` heads of every row of `x`, in place. Rows are
// independent, so the cheaper of two ways to cut the work is taken.
struct HeadNormArgs {
  MatrixView<float> x;  // [tokens, heads * head_dim]
  int64_t heads = 0;
  const std::vector<float>& weight;  // [head_dim]
  float epsilon = 0;
};
void NormHeads(const OpContext& context, const OpTable& ops,
               const HeadNormArgs& args) {
  const int64_t dim = static_cast<int64_t>(args.weight.size());
  const bool by_token = args.x.rows < args.heads;
  const int64_t calls = by_token ? args.x.rows : args.heads;
  for (int64_t i = 0; i < calls; ++i) {
    const MatrixView<float> part =
        by_token ? View(args.x.Row(i), args.heads, dim, dim)
                 : Columns(args.x, i * dim, dim);
    ops.rms_norm(context, {.x = Const(part),
                           .weight = args.weight.data(),
                           .y = part,
                           .epsilon = args.epsilon});
  }
}

// What one layer's attention reads: K and V of every entry once.
int64_t AttentionBytes(const StepInputs& in, const ModelConfig& config,
                       const kernels::KvView& kv) {
  int64_t entries = 0;
  for (size_t i = 0; i < in.kv_before.size(); ++i) {
    entries += in.kv_before[i] + in.q_off[i + 1] - in.q_off[i];
  }
  const int64_t value_bytes = kv.dtype == kernels::KvDtype::kF32 ? 4 : 2;
  return entries * 2 * config.kv_width() * value_bytes;
}

}  // namespace

CausalLm::CausalLm(ModelConfig config, DecoderWeights weights,
                   int64_t max_positions)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      rope_(config_.rope, max_positions) {}

// Of every buffer, in bytes.
struct CausalLm::BufferSizes {
  int64_t slice_rows = 0;
  int64_t floats[6] = {};  // in the order they are cut
  int64_t activation_bytes = 0;
  int64_t gated_bytes = 0;
  int64_t attention_bytes = 0;

  int64_t total() const {
    int64_t bytes = PieceCutter::PieceBytes(activation_bytes) +
                    PieceCutter::PieceBytes(gated_bytes) +
                    PieceCutter::PieceBytes(attention_bytes);
    for (int64_t count : floats) bytes += PieceCutter::PieceBytes(count * 4);
    return bytes;
  }
};

CausalLm::BufferSizes CausalLm::SizesFor(const StepLimits& limits) const {
  const ModelConfig& c = config_;
  BufferSizes sizes;
  sizes.slice_rows = std::min(kSliceRows, limits.max_tokens);
  sizes.activation_bytes =
      weights_.output_head().ScratchBytes(limits.max_logit_rows);
  int64_t gate_up_width = c.ffn;
  for (const DecoderLayerWeights& layer : weights_.layers) {
    for (const Linear* linear :
         {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      sizes.activation_bytes = std::max(sizes.activation_bytes,
                                        linear->ScratchBytes(sizes.slice_rows));
    }
    sizes.gated_bytes =
        std::max(sizes.gated_bytes, layer.down.ScratchBytes(sizes.slice_rows));
    if (layer.gate_up.row_order() != RowOrder::kPairedPanels) {
      gate_up_width = 2 * c.ffn;
    }
  }
  const int64_t floats[] = {
      limits.max_tokens * c.hidden,
      limits.max_tokens * (c.q_width() + 2 * c.kv_width()),
      limits.max_tokens * c.q_width(),
      sizes.slice_rows * gate_up_width,
      limits.max_logit_rows * c.vocab,
      limits.max_logit_rows * c.hidden};
  std::copy(std::begin(floats), std::end(floats), sizes.floats);
  sizes.attention_bytes =
      kernels::AttentionScratchBytes({.max_tokens = limits.max_tokens,
                                      .max_kv_len = limits.max_kv_len,
                                      .heads = c.heads,
                                      .head_dim = c.head_dim,
                                      .threads = limits.threads});
  return sizes;
}

int64_t CausalLm::BufferBytes(const StepLimits& limits) const {
  return SizesFor(limits).total();
}

absl::StatusOr<std::unique_ptr<ForwardBuffers>> CausalLm::MakeBuffers(
    const StepLimits& limits) const {
  const BufferSizes sizes = SizesFor(limits);
  auto b = std::make_unique<ForwardBuffers>();
  b->limits_ = limits;
  b->slice_rows_ = sizes.slice_rows;
  ASSIGN_OR_RETURN(b->memory_,
                   PageMemory::Allocate(sizes.total(), "activations"));
  PieceCutter cutter(b->memory_);
  float** targets[] = {&b->residual_, &b->qkv_,    &b->attended_,
                       &b->gate_up_,  &b->logits_, &b->logit_input_};
  for (int i = 0; i < 6; ++i) *targets[i] = cutter.TakeFloats(sizes.floats[i]);
  b->activations_ = cutter.Take(sizes.activation_bytes);
  b->gated_ = cutter.Take(sizes.gated_bytes);
  b->attention_ = cutter.Take(sizes.attention_bytes);
  return b;
}

void CausalLm::Attention(const OpContext& context, const OpTable& ops,
                         const StepInputs& in, int64_t layer,
                         ForwardBuffers* b) const {
  const ModelConfig& c = config_;
  const DecoderLayerWeights& w = weights_.layers[layer];
  const int64_t tokens = b->tokens_;
  const int64_t width = c.q_width() + 2 * c.kv_width();
  OpLap lap(b->profile_);
  const MatrixView<float> residual =
      View(b->residual_, tokens, c.hidden, c.hidden);
  const MatrixView<float> qkv = View(b->qkv_, tokens, width, width);
  for (int64_t r = 0; r < tokens; r += b->slice_rows_) {
    const int64_t end = std::min(tokens, r + b->slice_rows_);
    w.qkv.Apply(context, ops,
                {.x = Const(Rows(residual, r, end)),
                 .y = Rows(qkv, r, end),
                 .scratch = b->activations_,
                 .norm_weight = w.attention_norm.data(),
                 .epsilon = c.norm_epsilon});
    lap.Done(StepOp::kQkv, w.qkv.packed_bytes());
  }
  const MatrixView<float> q = Columns(qkv, 0, c.q_width());
  const MatrixView<float> k = Columns(qkv, c.q_width(), c.kv_width());
  const MatrixView<float> v =
      Columns(qkv, c.q_width() + c.kv_width(), c.kv_width());
  if (!w.q_norm.empty()) {
    NormHeads(context, ops,
              {.x = q,
               .heads = c.heads,
               .weight = w.q_norm,
               .epsilon = c.norm_epsilon});
    NormHeads(context, ops,
              {.x = k,
               .heads = c.kv_heads,
               .weight = w.k_norm,
               .epsilon = c.norm_epsilon});
    lap.Done(StepOp::kHeadNorm);
  }
  // q and k lie side by side and rotate alike.
  ops.append_kv(context,
                {.rope = {.x = Columns(qkv, 0, c.q_width() + c.kv_width()),
                          .heads = c.heads + c.kv_heads,
                          .head_dim = c.head_dim,
                          .positions = in.positions,
                          .table = rope_.view(),
                          .pairs = c.rope_pairs},
                 .write = {.k = Const(k),
                           .v = Const(v),
                           .slots = in.slots,
                           .kv = in.kv[layer]}});
  lap.Done(StepOp::kAppendKv);
  ops.attention(context,
                {.q = Const(q),
                 .out = View(b->attended_, tokens, c.q_width(), c.q_width()),
                 .heads = c.heads,
                 .q_off = in.q_off,
                 .kv_before = in.kv_before,
                 .block_table = in.block_table,
                 .table_width = in.table_width,
                 .kv = in.kv[layer],
                 .scale = static_cast<float>(
                     1.0 / std::sqrt(static_cast<double>(c.head_dim))),
                 .scratch = b->attention_});
  lap.Done(StepOp::kAttention, AttentionBytes(in, c, in.kv[layer]));
}

void CausalLm::Mlp(const OpContext& context, const OpTable& ops, int64_t layer,
                   MatrixView<float> x, ForwardBuffers* b) const {
  const ModelConfig& c = config_;
  const DecoderLayerWeights& w = weights_.layers[layer];
  const bool paired = w.gate_up.row_order() == RowOrder::kPairedPanels;
  const int64_t width = paired ? c.ffn : 2 * c.ffn;
  const MatrixView<float> gate_up = View(b->gate_up_, x.rows, width, width);
  const MatrixView<float> gate = Columns(gate_up, 0, c.ffn);
  std::optional<kernels::Activations> gated;
  if (paired) gated = w.down.PackedInput(x.rows, b->gated_);
  OpLap lap(b->profile_);
  w.gate_up.Apply(context, ops,
                  {.x = Const(x),
                   .y = gate_up,
                   .scratch = b->activations_,
                   .norm_weight = w.mlp_norm.data(),
                   .epsilon = c.norm_epsilon,
                   .packed_y = gated.has_value() ? &*gated : nullptr});
  lap.Done(StepOp::kGateUp, w.gate_up.packed_bytes());
  if (!paired) {
    ops.silu_mul(context, {.gate = Const(gate),
                           .up = Const(Columns(gate_up, c.ffn, c.ffn)),
                           .y = gate});
    lap.Done(StepOp::kSiluMul);
  }
  w.down.Apply(context, ops,
               {.x = Const(gate),
                .y = x,
                .accumulate = true,
                .scratch = b->activations_,
                .packed_x = gated.has_value() ? &*gated : nullptr});
  lap.Done(StepOp::kDown, w.down.packed_bytes());
}

void CausalLm::Forward(const OpContext& context, const OpTable& ops,
                       const StepInputs& in, ForwardBuffers* b,
                       absl::FunctionRef<void(int64_t)> layer_done) const {
  const ModelConfig& c = config_;
  const int64_t tokens = static_cast<int64_t>(in.ids.size());
  SLUICE_CHECK(tokens <= b->limits_.max_tokens);
  SLUICE_CHECK(in.positions.size() == in.ids.size());
  SLUICE_CHECK(in.slots.size() == in.ids.size());
  SLUICE_CHECK(static_cast<int64_t>(in.kv.size()) == c.layers);
  b->tokens_ = tokens;
  if (tokens == 0) return;
  OpLap lap(b->profile_);
  const MatrixView<float> residual =
      View(b->residual_, tokens, c.hidden, c.hidden);
  const MatrixView<float> attended =
      View(b->attended_, tokens, c.q_width(), c.q_width());
  ops.embedding(
      context,
      {.ids = in.ids, .table = weights_.embedding.matrix(), .y = residual});
  lap.Done(StepOp::kEmbedding);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const Linear& output = weights_.layers[layer].output;
    Attention(context, ops, in, layer, b);
    layer_done(layer + 1);
    lap.Restart();
    for (int64_t r = 0; r < tokens; r += b->slice_rows_) {
      const int64_t end = std::min(tokens, r + b->slice_rows_);
      const MatrixView<float> x = Rows(residual, r, end);
      output.Apply(context, ops,
                   {.x = Const(Rows(attended, r, end)),
                    .y = x,
                    .accumulate = true,
                    .scratch = b->activations_});
      lap.Done(StepOp::kOutput, output.packed_bytes());
      Mlp(context, ops, layer, x, b);
      lap.Restart();
    }
  }
}

MatrixView<const float> CausalLm::Logits(const OpContext& context,
                                         const OpTable& ops,
                                         absl::Span<const int32_t> rows,
                                         ForwardBuffers* b) const {
  const ModelConfig& c = config_;
  const int64_t count = static_cast<int64_t>(rows.size());
  SLUICE_CHECK(count <= b->limits_.max_logit_rows);
  const MatrixView<float> input =
      View(b->logit_input_, count, c.hidden, c.hidden);
  for (int64_t i = 0; i < count; ++i) {
    SLUICE_CHECK(rows[i] >= 0 && rows[i] < b->tokens_);
    std::memcpy(input.Row(i), b->residual_ + rows[i] * c.hidden,
                c.hidden * sizeof(float));
  }
  const MatrixView<float> logits = View(b->logits_, count, c.vocab, c.vocab);
  if (count == 0) return Const(logits);
  OpLap lap(b->profile_);
  weights_.output_head().Apply(context, ops,
                               {.x = Const(input),
                                .y = logits,
                                .scratch = b->activations_,
                                .norm_weight = weights_.final_norm.data(),
                                .epsilon = c.norm_epsilon});
  lap.Done(StepOp::kHead, weights_.output_head().packed_bytes());
  return Const(logits);
}

}  // namespace sluice::worker
