#ifndef WORKER_MODEL_LOADED_MODEL_H_
#define WORKER_MODEL_LOADED_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/kv_view.h"
#include "kernels/tensor_view.h"
#include "worker/model/decoder_weights.h"
#include "worker/model/model_config.h"
#include "worker/model/model_files.h"
#include "worker/model/transformer.h"

namespace sluice::worker {

struct LoadOptions {
  std::string path;           // GGUF file or Hugging Face folder
  std::string name;           // served name; empty: the file's or folder's
  int64_t max_context = 0;    // tokens; 0: the model's own
  bool widen_to_f32 = false;  // --weights.dequantize=f32
  std::optional<kernels::KvDtype> kv_dtype;  // absent: by the weights
  std::string cache_folder;  // of repacked weights; empty: no cache
};

// Where the packed weights are.
enum class WeightsIn {
  kOwnMemory,   // repacked, this process's alone
  kNewCache,    // repacked and written to the cache: shared
  kKnownCache,  // mapped from the cache: shared, nothing repacked
};
absl::string_view Name(WeightsIn place);  // "repacked", "cached now", "cache"

// A model ready to compute. Owns everything; the files are closed again.
struct LoadedModel {
  std::unique_ptr<CausalLm> model;
  ModelFiles files;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  bool widened_to_f32 = false;
  int64_t weight_bytes = 0;  // packed
  WeightsIn weights_in = WeightsIn::kOwnMemory;
  int64_t digest_ms = 0;  // to learn the model's digest
  std::vector<std::string> warnings;
};

// Reads, checks and repacks a model on context.pool, calling `progress` (may
// be empty) on this thread; the digest is made meanwhile on another one. With
// a cache the digest comes first, and weights repacked before are mapped.
// kNotFound, kInvalidArgument, kUnimplemented, kDataLoss: the files (exit
// code 65), naming the tensor or key; kResourceExhausted: memory.
absl::StatusOr<LoadedModel> LoadModel(const LoadOptions& options,
                                      const kernels::OpContext& context,
                                      const ProgressFn& progress);

// What LoadModel would find, without reading the weights: for --check.
struct ModelSummary {
  ModelConfig config;
  ModelFiles files;  // without the digest
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  int64_t weight_bytes = 0;  // packed
};
absl::StatusOr<ModelSummary> InspectModel(const LoadOptions& options);

// 32 bytes naming everything the KV bits depend on: model digest, widening,
// KV dtype, RoPE parameters and pairs, groups, numerics id (KV cache
// specification section 5.1).
std::string KvFingerprint(const LoadedModel& model,
                          absl::string_view numerics_id);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_LOADED_MODEL_H_
