#ifndef WORKER_WORKER_OPTIONS_H_
#define WORKER_WORKER_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/log.h"
#include "kernels/op_table.h"
#include "proto/config.pb.h"
#include "proto/worker.pb.h"
#include "worker/model/loaded_model.h"

namespace sluice::worker {

// A WorkerConfig, checked, with every default filled in.
struct WorkerOptions {
  std::string instance;
  v1::Role role = v1::MIXED;
  LoadOptions load;
  std::optional<kernels::Isa> isa;  // absent: the best
  int threads = 1;
  bool pin_threads = false;
  uint32_t block_tokens = 64;
  uint64_t kv_blocks = 0;  // with the null block; 0: by memory
  uint64_t kv_bytes = 0;   // 0: what the budget leaves
  std::string kv_transport = "auto";
  uint32_t kv_deadline_ms = 30000;
  uint32_t min_peers = 1;
  bool kv_debuggable = false;
  bool recompute_on_failure = true;
  std::vector<std::string> peers;
  std::string peers_dns;
  uint32_t max_batch_seqs = 256;
  uint32_t max_batch_tokens = 8192;
  uint32_t chunk_tokens = 0;
  uint32_t step_ms = 250;
  uint32_t max_waiting_seqs = 1024;
  uint64_t max_waiting_tokens = 4 << 20;
  uint32_t aging_ms = 10000;
  std::string grpc_address = "127.0.0.1:8001";
  std::string metrics_address = "127.0.0.1:8002";
  std::string probe_address = "127.0.0.1:8003";
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kJson;
  uint32_t drain_budget_ms = 600000;
  uint32_t beat_ms = 200;
  std::string step_log;  // empty: none
};

// kInvalidArgument naming the field and its value.
absl::StatusOr<WorkerOptions> MakeWorkerOptions(
    const config::WorkerConfig& config);

}  // namespace sluice::worker

#endif  // WORKER_WORKER_OPTIONS_H_
