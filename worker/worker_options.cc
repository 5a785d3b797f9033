#include "worker/worker_options.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cpu/thread_pool.h"
#include "kvtransfer/kv_layout.h"
#include "worker/model/weight_cache.h"

namespace sluice::worker {
namespace {

absl::Status Wrong(absl::string_view field, absl::string_view want,
                   absl::string_view got) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " must be ", want, ", got ", got));
}

absl::StatusOr<v1::Role> ParseRole(const std::string& name) {
  if (name.empty() || name == "mixed") return v1::MIXED;
  if (name == "prefill") return v1::PREFILL;
  if (name == "decode") return v1::DECODE;
  return Wrong("role", "mixed, prefill or decode", name);
}

// host:port listens on loopback only: the worker's ports carry no
// authentication of their own.
bool IsLoopback(const std::string& address) {
  return address.rfind("127.", 0) == 0 || address.rfind("[::1]", 0) == 0 ||
         address.rfind("localhost:", 0) == 0;
}

std::string DefaultInstance(v1::Role role) {
  char host[256] = "worker";
  gethostname(host, sizeof host - 1);
  const char* suffix = role == v1::PREFILL  ? "-prefill"
                       : role == v1::DECODE ? "-decode"
                                            : "-mixed";
  return absl::StrCat(host, suffix);
}

absl::Status FillModel(const config::WorkerConfig& config,
                       WorkerOptions& options) {
  if (config.model().path().empty()) {
    return absl::InvalidArgumentError(
        "model.path must name a GGUF file or a model folder");
  }
  options.load.path = config.model().path();
  options.load.name = config.model().name();
  options.load.max_context = config.model().max_context();
  const std::string& dequantize = config.weights().dequantize();
  if (!dequantize.empty() && dequantize != "f32") {
    return Wrong("weights.dequantize", "empty or f32", dequantize);
  }
  options.load.widen_to_f32 = dequantize == "f32";
  const std::string& cache = config.weights().cache_dir();
  if (cache.empty()) {
    options.load.cache_folder = DefaultWeightCacheFolder();
  } else if (cache[0] == '/') {
    options.load.cache_folder = cache;
  } else if (cache != "off") {
    return Wrong("weights.cache_dir", "empty, off or an absolute path", cache);
  }
  const std::string& dtype = config.kv().dtype();
  if (dtype == "bf16") {
    options.load.kv_dtype = kernels::KvDtype::kBF16;
  } else if (dtype == "f32") {
    options.load.kv_dtype = kernels::KvDtype::kF32;
  } else if (!dtype.empty()) {
    return Wrong("kv.dtype", "empty, bf16 or f32", dtype);
  }
  if (!config.cpu().isa().empty()) {
    ASSIGN_OR_RETURN(options.isa, kernels::ParseIsa(config.cpu().isa()));
  }
  options.threads = config.cpu().threads() != 0
                        ? static_cast<int>(config.cpu().threads())
                        : kernels::UsableCpus();
  options.pin_threads = config.cpu().pin();
  if (options.threads > 1024) {
    return Wrong("cpu.threads", "at most 1024", absl::StrCat(options.threads));
  }
  return absl::OkStatus();
}

absl::Status FillKv(const config::WorkerConfig::Kv& kv,
                    WorkerOptions& options) {
  if (kv.block_tokens() != 0) options.block_tokens = kv.block_tokens();
  RETURN_IF_ERROR(kvtransfer::CheckBlockTokens(options.block_tokens));
  options.kv_blocks = kv.blocks();
  options.kv_bytes = kv.memory_bytes();
  if (!kv.transport().empty()) options.kv_transport = kv.transport();
  if (options.kv_transport != "auto" && options.kv_transport != "shm" &&
      options.kv_transport != "ucx") {
    return Wrong("kv.transport", "auto, shm or ucx", options.kv_transport);
  }
  if (kv.deadline_ms() != 0) options.kv_deadline_ms = kv.deadline_ms();
  if (options.kv_deadline_ms < 100 || options.kv_deadline_ms > 600000) {
    return Wrong("kv.deadline_ms", "in [100, 600000]",
                 absl::StrCat(options.kv_deadline_ms));
  }
  if (kv.min_peers() != 0) options.min_peers = kv.min_peers();
  options.kv_debuggable = kv.debuggable();
  if (!kv.on_failure().empty() && kv.on_failure() != "recompute" &&
      kv.on_failure() != "fail") {
    return Wrong("kv.on_failure", "recompute or fail", kv.on_failure());
  }
  options.recompute_on_failure = kv.on_failure() != "fail";
  options.peers.assign(kv.peers().begin(), kv.peers().end());
  options.peers_dns = kv.peers_dns();
  return absl::OkStatus();
}

void FillSched(const config::WorkerConfig::Sched& sched,
               WorkerOptions& options) {
  if (sched.max_batch_seqs()) options.max_batch_seqs = sched.max_batch_seqs();
  if (sched.max_batch_tokens()) {
    options.max_batch_tokens = sched.max_batch_tokens();
  }
  options.chunk_tokens = sched.chunk_tokens();
  if (sched.step_ms()) options.step_ms = sched.step_ms();
  if (sched.max_waiting_seqs()) {
    options.max_waiting_seqs = sched.max_waiting_seqs();
  }
  if (sched.max_waiting_tokens()) {
    options.max_waiting_tokens = sched.max_waiting_tokens();
  }
  if (sched.aging_ms()) options.aging_ms = sched.aging_ms();
}

absl::Status FillServer(const config::WorkerConfig& config,
                        WorkerOptions& options) {
  const config::WorkerConfig::Server& server = config.server();
  if (!server.grpc_address().empty()) {
    options.grpc_address = server.grpc_address();
  }
  if (!server.metrics_address().empty()) {
    options.metrics_address = server.metrics_address();
  }
  if (!server.probe_address().empty()) {
    options.probe_address = server.probe_address();
  }
  if (options.role != v1::MIXED && options.kv_transport != "shm" &&
      !IsLoopback(options.grpc_address) && !config.kv().trust_network()) {
    return absl::FailedPreconditionError(
        absl::StrCat("ucx over tcp on ", options.grpc_address,
                     " is open to whoever reaches it: set kv.trust_network, or "
                     "kv.transport=shm"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WorkerOptions> MakeWorkerOptions(
    const config::WorkerConfig& config) {
  WorkerOptions options;
  ASSIGN_OR_RETURN(options.role, ParseRole(config.role()));
  options.instance = config.instance().empty() ? DefaultInstance(options.role)
                                               : config.instance();
  RETURN_IF_ERROR(FillModel(config, options));
  RETURN_IF_ERROR(FillKv(config.kv(), options));
  FillSched(config.sched(), options);
  RETURN_IF_ERROR(FillServer(config, options));
  ASSIGN_OR_RETURN(options.log_level, ParseLogLevel(config.log().level()));
  ASSIGN_OR_RETURN(options.log_format, ParseLogFormat(config.log().format()));
  if (config.drain().has_budget_ms()) {
    options.drain_budget_ms = config.drain().budget_ms();
  }
  if (config.peer().has_beat_ms()) options.beat_ms = config.peer().beat_ms();
  if (options.beat_ms < 10 || options.beat_ms > 10000) {
    return Wrong("peer.beat_ms", "in [10, 10000]",
                 absl::StrCat(options.beat_ms));
  }
  options.step_log = config.debug().step_log();
  return options;
}

}  // namespace sluice::worker
