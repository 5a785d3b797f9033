#ifndef WORKER_SERVER_WORKER_FACTS_H_
#define WORKER_SERVER_WORKER_FACTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/worker.pb.h"

namespace sluice::worker {

// What does not change in a generation of this worker. A value.
struct WorkerFacts {
  v1::Identity identity;
  uint32_t vocab = 0;
  uint32_t model_length = 0;  // tokens
  uint32_t block_tokens = 64;
  uint64_t block_bytes = 0;  // of one block, all layers
  uint32_t max_batch_seqs = 0;
  uint64_t max_waiting_tokens = 0;
  std::vector<int32_t> eos_ids;
  uint32_t kv_deadline_ms = 30000;
  bool recompute_on_failure = true;  // of a transfer; else the request ends
  uint32_t min_peers = 1;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_WORKER_FACTS_H_
