#ifndef WORKER_MODEL_TRANSFORMER_H_
#define WORKER_MODEL_TRANSFORMER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kv_view.h"
#include "kernels/op_table.h"
#include "kernels/rope_table.h"
#include "worker/model/decoder_weights.h"
#include "worker/model/model_config.h"
#include "worker/model/op_profile.h"
#include "worker/model/page_memory.h"

namespace sluice::worker {

// The largest step that will come.
struct StepLimits {
  int64_t max_tokens = 0;      // new tokens of a step
  int64_t max_kv_len = 0;      // tokens of a sequence
  int64_t max_logit_rows = 0;  // of one Logits() call
  int64_t threads = 1;         // of the pool that computes
};

// One forward pass (attention specification section 1). Spans are borrowed.
struct StepInputs {
  absl::Span<const int32_t> ids;          // [tokens], each in [0, vocab)
  absl::Span<const int64_t> positions;    // [tokens], each < max_positions
  absl::Span<const int64_t> slots;        // [tokens] block * block_tokens + i
  absl::Span<const uint32_t> q_off;       // [seqs + 1]
  absl::Span<const uint32_t> kv_before;   // [seqs]
  const uint32_t* block_table = nullptr;  // [seqs, table_width], 0 unused
  int64_t table_width = 0;
  absl::Span<const kernels::KvView> kv;  // [layers]
};

// Every buffer of a forward pass, allocated once. One per rank thread.
class ForwardBuffers;

// A dense decoder: weights and layers. Immutable after construction; Forward
// and Logits use only the buffers given, so any thread may call them, each
// with its own buffers and pool.
class CausalLm {
 public:
  // The RoPE table covers positions [0, max_positions).
  CausalLm(ModelConfig config, DecoderWeights weights, int64_t max_positions);

  const ModelConfig& config() const { return config_; }
  const DecoderWeights& weights() const { return weights_; }
  int64_t max_positions() const { return rope_.view().positions; }
  const kernels::RopeTable rope() const { return rope_.view(); }

  // What MakeBuffers() takes.
  int64_t BufferBytes(const StepLimits& limits) const;
  // kResourceExhausted when the memory cannot be had.
  absl::StatusOr<std::unique_ptr<ForwardBuffers>> MakeBuffers(
      const StepLimits& limits) const;

  // Runs all layers, writing K and V of the new tokens to `in.kv`, and leaves
  // the residual stream in the buffers. `layer_done(n)` after layer n - 1 has
  // written its K and V.
  void Forward(const kernels::OpContext& context, const kernels::OpTable& ops,
               const StepInputs& in, ForwardBuffers* buffers,
               absl::FunctionRef<void(int64_t)> layer_done) const;

  // Logits [rows.size(), vocab] of those token rows of the last Forward();
  // valid until the next call with these buffers.
  kernels::MatrixView<const float> Logits(const kernels::OpContext& context,
                                          const kernels::OpTable& ops,
                                          absl::Span<const int32_t> rows,
                                          ForwardBuffers* buffers) const;

 private:
  struct BufferSizes;

  BufferSizes SizesFor(const StepLimits& limits) const;
  void Attention(const kernels::OpContext& context, const kernels::OpTable& ops,
                 const StepInputs& in, int64_t layer, ForwardBuffers* b) const;
  void Mlp(const kernels::OpContext& context, const kernels::OpTable& ops,
           int64_t layer, kernels::MatrixView<float> x,
           ForwardBuffers* b) const;

  const ModelConfig config_;
  const DecoderWeights weights_;
  const kernels::RopeTableStorage rope_;
};

class ForwardBuffers {
 public:
  int64_t size_bytes() const { return memory_.size_bytes(); }
  const StepLimits& limits() const { return limits_; }

  // Where the time of what runs with these buffers goes; null: not measured.
  void set_profile(OpProfile* profile) { profile_ = profile; }
  OpProfile* profile() const { return profile_; }

 private:
  friend class CausalLm;

  OpProfile* profile_ = nullptr;
  StepLimits limits_;
  PageMemory memory_;
  int64_t slice_rows_ = 0;
  int64_t tokens_ = 0;              // of the last Forward()
  float* residual_ = nullptr;       // [max_tokens, hidden]
  float* qkv_ = nullptr;            // [max_tokens, q + 2 kv widths]
  float* attended_ = nullptr;       // [max_tokens, q width]
  float* gate_up_ = nullptr;        // [slice, ffn], or [slice, 2 ffn]
  float* logits_ = nullptr;         // [max_logit_rows, vocab]
  float* logit_input_ = nullptr;    // [max_logit_rows, hidden]
  uint8_t* activations_ = nullptr;  // packed left operand of a product
  uint8_t* gated_ = nullptr;        // packed left operand of the down product
  uint8_t* attention_ = nullptr;    // scratch of attention
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_TRANSFORMER_H_
