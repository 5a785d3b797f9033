#ifndef WORKER_SERVER_MODEL_CARD_H_
#define WORKER_SERVER_MODEL_CARD_H_

#include <string>

#include "proto/worker.pb.h"
#include "worker/model/model_files.h"

namespace sluice::worker {

struct ModelCardArgs {
  const ModelFiles* files = nullptr;
  std::string numerics_id;
  std::string kv_fingerprint;  // 32 bytes
  uint32_t max_context = 0;    // tokens this worker serves
  uint32_t block_tokens = 0;
};

// Everything a router needs to know of the model.
v1::ModelCard MakeModelCard(const ModelCardArgs& args);

}  // namespace sluice::worker

#endif  // WORKER_SERVER_MODEL_CARD_H_
