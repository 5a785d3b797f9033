#include "worker/worker_process.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <array>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/health_service.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/thread.h"
#include "base/version.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/probe.h"
#include "kvtransfer/append_digests.h"
#include "kvtransfer/shm/shm_transport.h"
#include "kvtransfer/transfer_engine.h"
#include "kvtransfer/transfer_thread.h"
#include "kvtransfer/ucx/ucx_transport.h"
#include "worker/cache/kv_pool.h"
#include "worker/cache/memory_planner.h"
#include "worker/engine/engine.h"
#include "worker/engine/engine_metrics.h"
#include "worker/exec/rank_executor.h"
#include "worker/exec/step_log.h"
#include "worker/exec/step_profiler.h"
#include "worker/exec/step_runner.h"
#include "worker/handoff/handoff.h"
#include "worker/handoff/kv_links.h"
#include "worker/handoff/kv_service.h"
#include "worker/handoff/peer_dialer.h"
#include "worker/model/loaded_model.h"
#include "worker/server/drainer.h"
#include "worker/server/model_card.h"
#include "worker/server/reporter.h"
#include "worker/server/request_table.h"
#include "worker/server/worker_metrics.h"
#include "worker/server/worker_service.h"
#include "worker/server/worker_state.h"

namespace sluice::worker {
namespace {

// A pool that can admit nothing and moved nothing for so long is stuck.
constexpr int64_t kStuckUs = 10'000'000;
// A pair that has just met may have a request waiting.
constexpr int64_t kPopulateAfterMs = 500;
constexpr int64_t kProgressUs = 1'000'000;  // between lines of a long load
// A turn of these threads takes no longer: a step of the largest chunk on a
// slow machine; a bounded round of copies.
constexpr int64_t kStepTimeoutMs = 120'000;
constexpr int64_t kRoundTimeoutMs = 10'000;

// As a label, which knows both levels of AVX-512 as one.
absl::string_view LabelOf(kernels::Isa isa) {
  return kernels::Name(isa == kernels::Isa::kAvx512Bf16 ? kernels::Isa::kAvx512
                                                        : isa);
}

// What the pool's size depends on besides options and configuration.
struct LoadSizes {
  int64_t free_bytes = 0;  // before the load
  int64_t weight_bytes = 0;
  int64_t model_tokens = 0;
  const CausalLm* model = nullptr;  // null: not loaded, the plan is a bound
};

MemoryPlanInput PlanInput(const WorkerOptions& options,
                          const ModelConfig& config, const LoadSizes& sizes,
                          const kvtransfer::GroupLayout& layout) {
  MemoryPlanInput input;
  if (sizes.model != nullptr) {
    input.buffer_bytes = [&options, &sizes](const MemoryPlanInput& in) {
      return StepRunner::BufferBytes(*sizes.model,
                                     {.max_tokens = in.max_batch_tokens,
                                      .max_kv_len = in.model_tokens,
                                      .max_logit_rows = in.max_batch_seqs,
                                      .threads = options.threads});
    };
  }
  input.target = {.weight_bytes = sizes.weight_bytes,
                  .hidden = config.hidden,
                  .heads = config.heads,
                  .kv_heads = config.kv_heads,
                  .head_dim = config.head_dim,
                  .ffn = config.ffn,
                  .vocab = config.vocab};
  input.block_bytes = layout.block_stride_bytes();
  if (options.role == v1::PREFILL) {
    input.block_digest_bytes = kvtransfer::AppendDigests::BytesOfBlock(layout);
  }
  input.block_tokens = options.block_tokens;
  input.model_tokens = sizes.model_tokens;
  input.max_batch_seqs = options.max_batch_seqs;
  input.max_batch_tokens = options.max_batch_tokens;
  input.free_bytes = sizes.free_bytes;
  input.kv_bytes = static_cast<int64_t>(options.kv_bytes);
  input.blocks = static_cast<int64_t>(options.kv_blocks);
  return input;
}

// What the planner says of a model; `pool` gets its block count.
absl::StatusOr<MemoryPlan> PlanPool(const WorkerOptions& options,
                                    const ModelConfig& config,
                                    const LoadSizes& sizes,
                                    KvPoolOptions& pool) {
  ASSIGN_OR_RETURN(const kvtransfer::GroupLayout layout, KvLayoutFor(pool));
  ASSIGN_OR_RETURN(MemoryPlan plan,
                   PlanMemory(PlanInput(options, config, sizes, layout)));
  pool.num_blocks = static_cast<uint32_t>(plan.num_blocks);
  return plan;
}

std::vector<std::unique_ptr<kvtransfer::Transport>> MakeTransports(
    const WorkerOptions& options) {
  std::vector<std::unique_ptr<kvtransfer::Transport>> transports;
  if (options.kv_transport != "ucx") {
    auto shm = kvtransfer::ShmTransport::Create(
        {.populate_after_ms = kPopulateAfterMs});
    if (shm.ok()) {
      transports.push_back(*std::move(shm));
    } else {
      Log(kWarn, "kv transport unavailable",
          {{"transport", "shm"}, {"error", shm.status().ToString()}});
    }
  }
  if (options.kv_transport != "shm") {
    kvtransfer::UcxTransportOptions ucx;
    ucx.listen_address =
        options.grpc_address.substr(0, options.grpc_address.rfind(':'));
    auto transport = kvtransfer::UcxTransport::Create(ucx);
    if (transport.ok()) {
      transports.push_back(*std::move(transport));
    } else {
      Log(kWarn, "kv transport unavailable",
          {{"transport", "ucx"}, {"error", transport.status().ToString()}});
    }
  }
  return transports;
}

constexpr int64_t kProfiledSteps = 100;

// One line for the steps, one for each op that ran in them.
void LogProfile(const StepProfile& profile) {
  Log(kInfo, "step profile",
      {{"steps", profile.steps},
       {"us", profile.step_nanos / 1000},
       {"read_gb_s", profile.read_bytes_per_second * 1e-9}});
  for (size_t i = 0; i < kNumStepOps; ++i) {
    const StepOp op = static_cast<StepOp>(i);
    const OpProfile::Entry& entry = profile.ops.of(op);
    if (entry.calls == 0) continue;
    Log(kInfo, "op profile",
        {{"op", Name(op)},
         {"calls", entry.calls},
         {"us", entry.nanos / 1000},
         {"bytes", entry.bytes},
         {"time_share", static_cast<double>(entry.nanos) /
                            static_cast<double>(profile.step_nanos)},
         {"read_limit_share",
          ReadShare(entry, profile.read_bytes_per_second)}});
  }
}

uint64_t NewGeneration() {
  return kvtransfer::MakeGeneration(SystemClock::Get().UnixMicros(),
                                    static_cast<uint16_t>(RandomU64()));
}

}  // namespace

HealthOptions WorkerHealthOptions() {
  return {.reasons = {"starting", "loading", "no_peer", "pool_stuck",
                      "quarantine", "draining", "drained", "failed"},
          .initial = {"starting", "loading"},
          .services = {"sluice.v1.Worker", "sluice.v1.Kv"}};
}

// In the order of construction; destroyed from the end.
struct WorkerProcess::Parts {
  WorkerOptions options;
  HealthBoard* health = nullptr;
  MetricRegistry* metrics = nullptr;
  const Clock* clock = &SystemClock::Get();

  std::unique_ptr<kernels::ThreadPool> threads;
  kernels::ProbeResult probe;
  LoadedModel loaded;
  uint32_t model_tokens = 0;
  std::unique_ptr<KvPool> pool;
  std::unique_ptr<StepLogWriter> step_log;
  kvtransfer::LayoutManifest manifest;
  WorkerFacts facts;

  Mutex mu;
  CondVar drained_wake;
  bool drained ABSL_GUARDED_BY(mu) = false;

  KvLinks links;
  std::unique_ptr<kvtransfer::ControlLink> hooked_control;  // tests only
  std::unique_ptr<TransferMetrics> transfer_metrics;
  std::unique_ptr<kvtransfer::AppendDigests> append_digests;
  std::unique_ptr<kvtransfer::TransferEngine> transfers;
  std::unique_ptr<Handoff> handoff;
  std::unique_ptr<StepProfiler> profiler;
  std::unique_ptr<RankExecutor> executor;
  std::unique_ptr<EngineMetrics> engine_metrics;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<RequestTable> requests;
  std::unique_ptr<WorkerState> state;
  std::unique_ptr<Reporter> reporter;
  std::unique_ptr<Drainer> drain;
  std::unique_ptr<WorkerService> worker_service;
  std::unique_ptr<KvService> kv_service;
  std::unique_ptr<HealthService> health_service;
  std::jthread engine_thread;
  std::unique_ptr<kvtransfer::TransferThread> transfer_thread;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<PeerDialer> dialer;

  bool splits() const { return options.role != v1::MIXED; }

  absl::Status LoadAndPlan();
  void CountMemory(const char* kind, int64_t bytes);
  absl::Status SelectKernels();
  void DescribeWorker();
  absl::Status MakeTransfers(const TransferHooks& hooks);
  absl::Status MakeEngine();
  void MakeServices();
  absl::Status Listen();
  v1::WorkerReport MakeReport() const;
  v1::LedgerResponse MakeLedger() const;
  uint32_t OpenTransfers() const;
  void AddReadinessChecks();
};

absl::Status WorkerProcess::Parts::SelectKernels() {
  threads = std::make_unique<kernels::ThreadPool>(options.threads);
  const kernels::Isa isa =
      options.isa.has_value() ? *options.isa : kernels::DetectIsa();
  ASSIGN_OR_RETURN(const kernels::OpTable* table, kernels::SelectOpTable(isa));
  probe = kernels::RunProbe({.pool = threads.get()}, *table);
  CounterFamily& mismatches = metrics->AddCounterFamily(
      "sluice_kernel_probe_mismatch_total",
      "Ops whose bits differed from the portable path and were replaced.",
      {"op", "isa"});
  for (const kernels::ProbeMismatch& mismatch : probe.mismatches) {
    mismatches.With({mismatch.op, LabelOf(mismatch.isa)}).Add(1);
    Log(kWarn, "kernel differs from the portable one and is replaced",
        {{"op", mismatch.op}, {"isa", kernels::Name(mismatch.isa)}});
  }
  metrics
      ->AddGauge("sluice_numerics_info", "What this worker's bits are.",
                 {{"numerics_id", probe.numerics_id},
                  {"isa", std::string(LabelOf(probe.table.isa))}})
      .Set(1);
  return absl::OkStatus();
}

void WorkerProcess::Parts::CountMemory(const char* kind, int64_t bytes) {
  metrics
      ->AddGauge("sluice_memory_bytes", "Memory by use.",
                 {{"kind", kind}, {"device", "cpu"}})
      .Set(static_cast<double>(bytes));
}

absl::Status WorkerProcess::Parts::LoadAndPlan() {
  const int64_t begin_us = clock->NowMicros();
  const int64_t free_bytes = FreeHostBytes();
  int64_t logged_us = begin_us;
  const ProgressFn progress = [&](int64_t done_bytes, int64_t total_bytes) {
    if (clock->NowMicros() - logged_us < kProgressUs) return;
    logged_us = clock->NowMicros();
    Log(kInfo, "repacking weights",
        {{"done_bytes", done_bytes}, {"total_bytes", total_bytes}});
  };
  ASSIGN_OR_RETURN(loaded,
                   LoadModel(options.load, {.pool = threads.get()}, progress));
  const int64_t weights_us = clock->NowMicros() - begin_us;
  for (const std::string& warning : loaded.warnings) {
    Log(kWarn, "model", {{"warning", warning}});
  }
  const ModelConfig& config = loaded.model->config();
  model_tokens = loaded.files.max_context;
  KvPoolOptions pool_options =
      PoolOptionsFor(config, loaded.kv_dtype, options.block_tokens, 2);
  ASSIGN_OR_RETURN(const MemoryPlan plan,
                   PlanPool(options, config,
                            {.free_bytes = free_bytes,
                             .weight_bytes = loaded.weight_bytes,
                             .model_tokens = model_tokens,
                             .model = loaded.model.get()},
                            pool_options));
  for (const std::string& warning : plan.warnings) {
    Log(kWarn, "memory plan", {{"warning", warning}});
  }
  ASSIGN_OR_RETURN(pool, KvPool::Create(pool_options));
  CountMemory("weights", loaded.weight_bytes);
  CountMemory("kv", pool->size_bytes());
  Log(kInfo, "model loaded",
      {{"model", loaded.files.name},
       {"architecture", loaded.files.architecture},
       {"digest", ToHex(loaded.files.digest)},
       {"numerics_id", probe.numerics_id},
       {"isa", kernels::Name(probe.table.isa)},
       {"threads", options.threads},
       {"weights", Name(loaded.weights_in)},
       {"digest_ms", loaded.digest_ms},
       {"weights_ms", weights_us / 1000},
       {"load_ms", (clock->NowMicros() - begin_us) / 1000},
       {"blocks", plan.num_blocks},
       {"kv_huge_bytes", pool->memory().huge_bytes()},
       {"budget", plan.text}});
  return absl::OkStatus();
}

void WorkerProcess::Parts::DescribeWorker() {
  const std::string fingerprint = KvFingerprint(loaded, probe.numerics_id);
  manifest.worker = options.instance;
  manifest.generation = NewGeneration();
  manifest.kv_fingerprint = fingerprint;
  manifest.numerics_id = probe.numerics_id;
  manifest.block_tokens = options.block_tokens;
  kvtransfer::RankManifest rank;
  rank.num_layers = static_cast<uint32_t>(loaded.model->config().layers);
  rank.groups.push_back(pool->manifest_group());
  kvtransfer::ReplicaManifest replica;
  replica.ranks.push_back(std::move(rank));
  manifest.replicas.push_back(std::move(replica));
  manifest.manifest_id = kvtransfer::ComputeManifestId(manifest);

  v1::Identity& identity = facts.identity;
  identity.set_instance(options.instance);
  identity.set_generation(manifest.generation);
  identity.set_role(options.role);
  identity.set_model(loaded.files.name);
  identity.set_model_digest(ToBytes(loaded.files.digest));
  identity.set_manifest_id(manifest.manifest_id);
  identity.set_build(VersionLine("sluice-worker"));
  identity.set_max_context(model_tokens);
  identity.set_numerics_id(probe.numerics_id);
  facts.vocab = loaded.files.vocab;
  facts.model_length = model_tokens;
  facts.block_tokens = options.block_tokens;
  facts.block_bytes = pool->layout().block_stride_bytes();
  facts.max_batch_seqs = options.max_batch_seqs;
  facts.max_waiting_tokens = options.max_waiting_tokens;
  facts.eos_ids = loaded.files.eos_ids;
  facts.kv_deadline_ms = options.kv_deadline_ms;
  facts.recompute_on_failure = options.recompute_on_failure;
  facts.min_peers = options.min_peers;
}

absl::Status WorkerProcess::Parts::MakeTransfers(const TransferHooks& hooks) {
  if (!splits()) return absl::OkStatus();
  kvtransfer::EngineOptions engine_options;
  engine_options.manifest = manifest;
  engine_options.region = pool->memory().region();
  for (auto& transport : MakeTransports(options)) {
    engine_options.transports.push_back(
        hooks.wrap_transport ? hooks.wrap_transport(std::move(transport))
                             : std::move(transport));
  }
  if (engine_options.transports.empty()) {
    return absl::UnavailableError(absl::StrCat(
        "no KV transport works here, wanted ", options.kv_transport));
  }
  std::vector<absl::string_view> names;
  for (const auto& transport : engine_options.transports) {
    names.push_back(transport->name());
  }
  transfer_metrics = std::make_unique<TransferMetrics>(*metrics, names);
  engine_options.observer = transfer_metrics.get();
  if (hooks.wrap_control) hooked_control = hooks.wrap_control(links);
  engine_options.control =
      hooked_control == nullptr ? &links : hooked_control.get();
  engine_options.clock = clock;
  engine_options.can_send = options.role == v1::PREFILL;
  if (engine_options.can_send) {
    append_digests = std::make_unique<kvtransfer::AppendDigests>(manifest, 0);
    engine_options.append_digests = append_digests.get();
  }
  engine_options.can_receive = options.role == v1::DECODE;
  engine_options.on_peer = [this](const kvtransfer::PeerInfo& peer) {
    Log(kInfo, "kv peer",
        {{"peer", peer.worker},
         {"state", kvtransfer::PeerStateName(peer.state)},
         {"transport", peer.transport},
         {"cause", peer.status.ToString()}});
    if (reporter != nullptr) reporter->Nudge();
  };
  ASSIGN_OR_RETURN(
      transfers, kvtransfer::TransferEngine::Create(std::move(engine_options)));
  links.set_transfers(transfers.get());
  handoff = std::make_unique<Handoff>(
      *transfers, static_cast<uint32_t>(loaded.model->config().layers),
      options.block_tokens);
  return absl::OkStatus();
}

absl::Status WorkerProcess::Parts::MakeEngine() {
  StepRunnerOptions runner;
  runner.model = loaded.model.get();
  runner.pool = pool.get();
  runner.ops = &probe.table;
  runner.threads = threads.get();
  runner.pin_threads = options.pin_threads;
  runner.clock = clock;
  runner.max_batch_seqs = options.max_batch_seqs;
  runner.max_batch_tokens = options.max_batch_tokens;
  runner.model_tokens = model_tokens;
  runner.eos_ids = facts.eos_ids;
  runner.digest_logits = !options.step_log.empty();
  runner.observer = handoff.get();
  runner.digests = append_digests.get();
  const PageMemory& weights = loaded.model->weights().memory;
  profiler = std::make_unique<StepProfiler>(
      absl::MakeConstSpan(weights.data(),
                          static_cast<size_t>(weights.size_bytes())),
      LogProfile);
  runner.profiler = profiler.get();
  ASSIGN_OR_RETURN(executor, RankExecutor::Create(runner));
  CountMemory("activations", executor->buffer_bytes());

  EngineOptions engine_options;
  engine_options.num_blocks = pool->num_blocks();
  engine_options.block_tokens = options.block_tokens;
  engine_options.model_length = model_tokens;
  engine_options.vocab = facts.vocab;
  engine_options.eos_ids = facts.eos_ids;
  engine_options.kv_fingerprint = manifest.kv_fingerprint;
  engine_options.max_batch_seqs = options.max_batch_seqs;
  engine_options.max_batch_tokens = options.max_batch_tokens;
  engine_options.chunk_tokens = options.chunk_tokens;
  engine_options.step_ms = options.step_ms;
  engine_options.max_waiting_seqs = options.max_waiting_seqs;
  engine_options.max_waiting_tokens = options.max_waiting_tokens;
  engine_options.aging_ms = options.aging_ms;
  if (!options.step_log.empty()) {
    StepLogHeader header;
    header.model_digest = ToBytes(loaded.files.digest);
    header.numerics_id = probe.numerics_id;
    header.kv_dtype = loaded.kv_dtype;
    header.widened_to_f32 = loaded.widened_to_f32;
    header.block_tokens = options.block_tokens;
    header.num_blocks = pool->num_blocks();
    header.max_batch_seqs = options.max_batch_seqs;
    header.max_batch_tokens = options.max_batch_tokens;
    header.model_tokens = model_tokens;
    ASSIGN_OR_RETURN(step_log, StepLogWriter::Open(options.step_log, header));
    engine_options.step_log = [this](const StepPlan& plan,
                                     const StepResult& result) {
      const absl::Status status = step_log->Write(plan, result);
      if (!status.ok()) {
        Log(kError, "step log", {{"error", status.ToString()}});
      }
    };
  }
  engine_metrics = std::make_unique<EngineMetrics>(
      *metrics, EngineMetrics::Labels{.model_name = loaded.files.name,
                                      .model_length = model_tokens});
  Engine::Parts engine_parts;
  engine_parts.executor = executor.get();
  engine_parts.handoff = handoff.get();
  engine_parts.clock = clock;
  engine_parts.metrics = engine_metrics.get();
  engine_parts.heartbeat = &health->AddHeartbeat("engine", kStepTimeoutMs);
  engine_parts.cache_events = [this](const PrefixCacheEvents& events) {
    reporter->OnCacheEvents(events);
  };
  ASSIGN_OR_RETURN(engine, Engine::Create(engine_options, engine_parts));
  if (handoff != nullptr) handoff->set_engine(engine.get());
  return absl::OkStatus();
}

void WorkerProcess::Parts::MakeServices() {
  requests = std::make_unique<RequestTable>(
      *clock, [this](RequestKey key, absl::Status cause) {
        engine->Cancel(key, std::move(cause));
      });
  state = std::make_unique<WorkerState>(*health);
  reporter = std::make_unique<Reporter>(options.beat_ms,
                                        [this] { return MakeReport(); });
  drain = std::make_unique<Drainer>(
      Drainer::Parts{.engine = engine.get(),
                     .requests = requests.get(),
                     .state = state.get(),
                     .open_transfers = [this] { return OpenTransfers(); },
                     .on_change = [this] { reporter->Nudge(); },
                     .on_drained =
                         [this] {
                           MutexLock lock(mu);
                           drained = true;
                           drained_wake.NotifyAll();
                         }});
  WorkerService::Parts service;
  service.facts = &facts;
  service.engine = engine.get();
  service.handoff = handoff.get();
  service.requests = requests.get();
  service.reporter = reporter.get();
  service.drain = drain.get();
  service.clock = clock;
  service.default_drain_budget_ms = options.drain_budget_ms;
  service.ledger = [this] { return MakeLedger(); };
  service.model_card = MakeModelCard({.files = &loaded.files,
                                      .numerics_id = probe.numerics_id,
                                      .kv_fingerprint = manifest.kv_fingerprint,
                                      .max_context = model_tokens,
                                      .block_tokens = options.block_tokens})
                           .SerializeAsString();
  worker_service = std::make_unique<WorkerService>(std::move(service));
  if (splits()) {
    kv_service = std::make_unique<KvService>(*transfers, links, manifest);
  }
  health_service = std::make_unique<HealthService>(*health);
  RegisterWorkerMetrics({.facts = &facts,
                         .engine = engine.get(),
                         .state = state.get(),
                         .requests = requests.get(),
                         .transfers = transfers.get(),
                         .transfer_metrics = transfer_metrics.get(),
                         .clock = clock},
                        *metrics);
}

absl::Status WorkerProcess::Parts::Listen() {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.grpc_address,
                           grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(worker_service.get());
  if (kv_service != nullptr) builder.RegisterService(kv_service.get());
  builder.RegisterService(health_service->service());
  builder.SetMaxReceiveMessageSize(64 << 20);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.grpc_address));
  }
  Log(kInfo, "listening", {{"grpc", options.grpc_address}});
  return absl::OkStatus();
}

v1::WorkerReport WorkerProcess::Parts::MakeReport() const {
  const SnapshotRef<EngineStats> stats = engine->stats();
  v1::WorkerReport report;
  *report.mutable_identity() = facts.identity;
  report.set_state(stats->ledger_violations > 0 ? v1::FAILED : state->Get());
  report.set_safe_to_delete(state->Get() == v1::DRAINED);
  for (std::string& reason : health->reasons()) {
    report.add_reasons(std::move(reason));
  }
  v1::Load* load = report.mutable_load();
  load->set_running_seqs(stats->running_seqs);
  load->set_waiting_seqs(stats->waiting_seqs);
  load->set_waiting_tokens(stats->waiting_tokens);
  load->set_used_blocks(stats->active_blocks + stats->quarantined_blocks);
  load->set_usable_blocks(stats->usable_blocks);
  load->set_block_tokens(facts.block_tokens);
  load->set_step_seconds(stats->step_seconds);
  v1::Credits* credits = report.mutable_credits();
  const uint64_t blocks = stats->free_blocks + stats->cached_blocks;
  credits->set_admissible_blocks(blocks);
  credits->set_prefill_tokens(facts.max_waiting_tokens > stats->waiting_tokens
                                  ? facts.max_waiting_tokens -
                                        stats->waiting_tokens
                                  : 0);
  credits->set_inbound_transfer_bytes(blocks * facts.block_bytes);
  const uint32_t busy = stats->running_seqs + stats->waiting_seqs;
  credits->set_sequence_slots(
      facts.max_batch_seqs > busy ? facts.max_batch_seqs - busy : 0);
  credits->set_issued_unix_us(clock->UnixMicros());
  if (transfers == nullptr) return report;
  const auto peers = transfers->Peers();
  for (const kvtransfer::PeerInfo& peer : *peers) {
    v1::PeerLink* link = report.add_links();
    link->set_instance(peer.worker);
    link->set_generation(peer.generation);
    link->set_transport(peer.transport);
    link->set_state(
        static_cast<v1::PeerLink::LinkState>(static_cast<int>(peer.state) + 1));
    if (!peer.status.ok()) link->set_detail(peer.status.ToString());
  }
  return report;
}

v1::LedgerResponse WorkerProcess::Parts::MakeLedger() const {
  const SnapshotRef<EngineStats> stats = engine->stats();
  v1::LedgerResponse ledger;
  ledger.set_usable(stats->usable_blocks);
  ledger.set_free(stats->free_blocks);
  ledger.set_cached(stats->cached_blocks);
  ledger.set_active(stats->active_blocks);
  ledger.set_quarantined(stats->quarantined_blocks);
  ledger.set_oldest_quarantine_ms(
      static_cast<uint32_t>(stats->oldest_quarantine_us / 1000));
  ledger.set_open_transfers(OpenTransfers());
  return ledger;
}

uint32_t WorkerProcess::Parts::OpenTransfers() const {
  if (transfers == nullptr) return 0;
  const auto stats = transfers->Stats();
  const std::array<uint64_t, 2>& inflight = stats->inflight_transfers;
  return static_cast<uint32_t>(inflight[0] + inflight[1]);
}

void WorkerProcess::Parts::AddReadinessChecks() {
  health->AddReasonCheck("pool_stuck", [this] {
    const SnapshotRef<EngineStats> stats = engine->stats();
    return stats->free_blocks + stats->cached_blocks == 0 &&
           clock->NowMicros() - stats->last_progress_us > kStuckUs;
  });
  // A ledger that does not add up is a bug: nothing it says can be trusted.
  health->AddReasonCheck("failed", [this] {
    const SnapshotRef<EngineStats> stats = engine->stats();
    return stats->ledger_violations > 0;
  });
  if (!splits()) return;
  health->AddReasonCheck("quarantine", [this] {
    const SnapshotRef<EngineStats> stats = engine->stats();
    return stats->quarantine_is_large();
  });
  health->AddReasonCheck("no_peer", [this] {
    uint32_t up = 0;
    const auto peers = transfers->Peers();
    for (const kvtransfer::PeerInfo& peer : *peers) {
      up += peer.state == kvtransfer::PeerState::kUp;
    }
    return up < facts.min_peers;
  });
}

std::unique_ptr<WorkerProcess> WorkerProcess::Start(
    const WorkerOptions& options, HealthBoard& health, MetricRegistry& metrics,
    const TransferHooks& hooks, StartFailure& failure) {
  auto parts = std::make_unique<Parts>();
  Parts* p = parts.get();
  p->options = options;
  p->health = &health;
  p->metrics = &metrics;
  const auto failed = [&failure](StartPhase phase, const absl::Status& status) {
    failure = {.phase = phase, .status = status};
    return !status.ok();
  };
  if (!options.kv_debuggable && p->splits() &&
      failed(StartPhase::kRun, kvtransfer::ForbidDumping())) {
    return nullptr;
  }
  if (failed(StartPhase::kConfig, p->SelectKernels()) ||
      failed(StartPhase::kModel, p->LoadAndPlan())) {
    return nullptr;
  }
  health.SetReason("loading", false);
  p->DescribeWorker();
  if (failed(StartPhase::kRun, p->MakeTransfers(hooks)) ||
      failed(StartPhase::kConfig, p->MakeEngine())) {
    return nullptr;
  }
  p->MakeServices();
  p->AddReadinessChecks();
  p->engine_thread = StartThread("engine", [p] { p->engine->Run(); });
  if (p->splits()) {
    auto thread = kvtransfer::TransferThread::Start(
        p->transfers.get(), &health.AddHeartbeat("transfer", kRoundTimeoutMs));
    if (failed(StartPhase::kRun, thread.status())) {
      p->engine->Stop();
      return nullptr;
    }
    p->transfer_thread = *std::move(thread);
  }
  if (failed(StartPhase::kListen, p->Listen())) {
    p->engine->Stop();
    return nullptr;
  }
  if (options.role == v1::DECODE) {
    p->dialer = std::make_unique<PeerDialer>(
        PeerDialerOptions{.addresses = options.peers,
                          .dns = options.peers_dns,
                          .own_worker = options.instance},
        *p->transfers, p->links);
  }
  p->state->Set(v1::SERVING, "started");
  p->reporter->Nudge();
  return std::unique_ptr<WorkerProcess>(new WorkerProcess(std::move(parts)));
}

WorkerProcess::WorkerProcess(std::unique_ptr<Parts> parts)
    : parts_(std::move(parts)) {}

WorkerProcess::~WorkerProcess() {
  Parts& p = *parts_;
  p.dialer.reset();
  p.health_service->Shutdown();
  p.server->Shutdown(std::chrono::system_clock::now());
  p.links.CloseAll();
  p.engine->Stop();
  p.engine_thread = std::jthread();
  p.transfer_thread.reset();
}

void WorkerProcess::StartDrain(const char* cause) {
  parts_->drain->Start(parts_->options.drain_budget_ms, cause);
}

void WorkerProcess::ProfileSteps() {
  parts_->profiler->Request(kProfiledSteps);
}

void WorkerProcess::Wait() {
  MutexLock lock(parts_->mu);
  while (!parts_->drained) parts_->drained_wake.Wait(parts_->mu);
}

absl::StatusOr<std::string> CheckText(const WorkerOptions& options) {
  ASSIGN_OR_RETURN(const ModelSummary summary, InspectModel(options.load));
  KvPoolOptions pool =
      PoolOptionsFor(summary.config, summary.kv_dtype, options.block_tokens, 2);
  ASSIGN_OR_RETURN(const MemoryPlan plan,
                   PlanPool(options, summary.config,
                            {.free_bytes = FreeHostBytes(),
                             .weight_bytes = summary.weight_bytes,
                             .model_tokens = summary.files.max_context,
                             .model = nullptr},
                            pool));
  return plan.text;
}

}  // namespace sluice::worker
