#ifndef WORKER_MODEL_MODEL_CONFIG_H_
#define WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/rope.h"
#include "kernels/rope_table.h"
#include "worker/model/architecture.h"
#include "worker/model/gguf.h"
#include "worker/model/weight_file.h"

namespace sluice::worker {

// The shape of a dense decoder, whatever file it came from. Checked: every
// size is >= 1 and sane, heads % kv_heads == 0, head_dim a multiple of 8 up to
// 512, rope.rot even and at most head_dim.
struct ModelConfig {
  const Architecture* architecture = nullptr;  // of the registry
  int64_t vocab = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t max_positions = 0;  // tokens of a sequence the model was made for
  float norm_epsilon = 1e-6f;
  kernels::RopeParams rope;
  kernels::RopePairs rope_pairs = kernels::RopePairs::kHalf;
  bool qkv_bias = false;
  bool output_bias = false;  // of the attention's output product
  bool mlp_bias = false;
  bool tied_head = false;
  std::vector<int64_t> eos_ids;  // as the configuration lists them

  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
};

// From config.json. kInvalidArgument naming the key for what is missing,
// malformed or contradictory; kUnimplemented naming the key or value for what
// we do not compute (unknown architecture, rope kind, active sliding window,
// quantisation).
absl::StatusOr<ModelConfig> ConfigFromJson(absl::string_view text);

// From GGUF metadata and the tensors present (biases, tied head, rope_freqs).
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

// eos_token_id (one or a list) of config.json or generation_config.json; empty
// when absent. kInvalidArgument.
absl::StatusOr<std::vector<int64_t>> EosIdsFromJson(absl::string_view text);

// What both end with.
absl::Status CheckConfig(const ModelConfig& config);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_MODEL_CONFIG_H_
