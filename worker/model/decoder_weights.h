#ifndef WORKER_MODEL_DECODER_WEIGHTS_H_
#define WORKER_MODEL_DECODER_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/linear.h"
#include "worker/model/model_config.h"
#include "worker/model/page_memory.h"
#include "worker/model/tensor_names.h"
#include "worker/model/weight_cache.h"
#include "worker/model/weight_file.h"

namespace sluice::worker {

// Called on the loading thread while weights are repacked, not when they come
// from the cache; `done_bytes` never falls.
using ProgressFn = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

struct DecoderLayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  Linear qkv;                         // q, k, v rows in this order
  std::vector<float> q_norm;          // [head_dim], or empty
  std::vector<float> k_norm;
  Linear output;
  std::vector<float> mlp_norm;  // [hidden]
  // Gate and up: kPairedPanels, or gate rows, then up rows.
  Linear gate_up;
  Linear down;
};

// Every weight of a dense decoder, repacked once or mapped from the cache.
// Immutable after loading.
struct DecoderWeights {
  PageMemory memory;  // of all packed matrices
  Linear embedding;   // [vocab, hidden]
  std::vector<DecoderLayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  Linear head;                    // unused when tied: embedding serves
  bool tied_head = false;
  int64_t unused_tensors = 0;  // in the file, of no use to us

  const Linear& output_head() const { return tied_head ? embedding : head; }
};

// Errors before any weight is read: kNotFound listing up to 10 missing tensors
// with the shapes wanted, else those of WeightFile::Want. kResourceExhausted
// when memory for the packed weights cannot be had.
struct LoadWeightsArgs {
  const ModelConfig& config;
  const WeightFile& file;
  Naming naming = Naming::kGguf;
  bool widen_to_f32 = false;
  const ProgressFn& progress;    // may be empty
  WeightCache* cache = nullptr;  // null: none
};
absl::StatusOr<DecoderWeights> LoadDecoderWeights(
    const kernels::OpContext& context, const LoadWeightsArgs& args);

// Bytes of the packed matrices, as LoadDecoderWeights would allocate.
absl::StatusOr<int64_t> PackedWeightBytes(const LoadWeightsArgs& args);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_DECODER_WEIGHTS_H_
