#ifndef WORKER_MODEL_TENSOR_NAMES_H_
#define WORKER_MODEL_TENSOR_NAMES_H_

#include <cstdint>
#include <string>

namespace sluice::worker {

enum class Naming : uint8_t { kHuggingFace, kGguf };

// Tensors of one layer, without ".weight" and ".bias".
struct LayerTensorNames {
  std::string attention_norm;
  std::string q, k, v, o;
  std::string q_norm, k_norm;
  std::string mlp_norm;
  std::string gate, up, down;
};

LayerTensorNames LayerNames(Naming naming, int64_t layer);

// Outside the layers, with ".weight".
struct ModelTensorNames {
  std::string embedding;
  std::string final_norm;
  std::string head;
};

ModelTensorNames ModelNames(Naming naming);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_TENSOR_NAMES_H_
