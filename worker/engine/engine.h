#ifndef WORKER_ENGINE_ENGINE_H_
#define WORKER_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/health.h"
#include "base/snapshot.h"
#include "worker/engine/executor.h"
#include "worker/engine/kv_handoff.h"
#include "worker/engine/request.h"
#include "worker/engine/token_sink.h"

namespace sluice::worker {

struct EngineOptions {
  uint32_t num_blocks = 0;  // with the null block
  uint32_t block_tokens = 64;
  uint32_t model_length = 0;  // tokens a sequence may hold
  uint32_t vocab = 0;
  std::vector<TokenId> eos_ids;
  std::string kv_fingerprint;  // 32 bytes, root of the block hashes
  uint32_t max_batch_seqs = 256;
  uint32_t max_batch_tokens = 8192;
  uint32_t chunk_tokens = 0;  // cap of one prefill chunk; 0: none
  uint32_t step_ms = 250;     // StepBudgetOptions::target_us
  uint32_t max_waiting_seqs = 1024;
  uint64_t max_waiting_tokens = 4u << 20;
  uint32_t aging_ms = 10000;
  // Called on the engine thread after a step with every record when set.
  std::function<void(const StepPlan&, const StepResult&)> step_log;
};

// Facts published after every step and every idle turn.
struct EngineStats {
  uint32_t usable_blocks = 0;  // the next four sum to it
  uint32_t free_blocks = 0;
  uint32_t cached_blocks = 0;
  uint32_t active_blocks = 0;
  uint32_t quarantined_blocks = 0;
  uint32_t running_seqs = 0;
  uint32_t waiting_seqs = 0;  // admitted, not running
  uint32_t remote_seqs = 0;   // of those, waiting for remote KV
  uint32_t held_seqs = 0;     // prefilled, blocks pinned by a transfer
  uint64_t waiting_tokens = 0;
  int64_t oldest_wait_us = 0;
  int64_t oldest_quarantine_us = 0;      // age; 0: nothing is quarantined
  int64_t last_step_end_us = 0;          // 0: none yet
  int64_t step_started_us = 0;           // of the step running now; 0: none
  int64_t last_progress_us = 0;          // some sequence got a token or a chunk
  double step_seconds = 0;               // exponential mean
  double prefill_tokens_per_second = 0;  // exponential mean
  uint64_t live_requests = 0;            // admitted, no final status yet
  bool draining = false;
  uint64_t ledger_violations = 0;  // above 0: the worker must fail
  std::string ledger_error;        // what the last one was

  // More than a quarter of the pool may still be written by others: not ready.
  bool quarantine_is_large() const {
    return uint64_t{4} * quarantined_blocks > usable_blocks;
  }
};

// Changes of the prefix cache: first 8 bytes, little endian, of block hashes.
struct PrefixCacheEvents {
  bool cleared = false;  // before stored and removed
  std::vector<uint64_t> stored;
  std::vector<uint64_t> removed;
};

struct EngineMetrics;  // worker/engine/engine_metrics.h

// Schedules requests over one executor and one block pool. Run() is the engine
// thread: it alone touches sequences, blocks and the prefix cache. Every other
// method may be called from any thread; it posts a message and returns. Every
// submitted request gets exactly one TokenSink::OnFinished.
class Engine {
 public:
  struct Parts {
    Executor* executor = nullptr;
    KvHandoff* handoff = nullptr;  // null: kPrefill and kDecode are refused
    const Clock* clock = nullptr;
    EngineMetrics* metrics = nullptr;  // null: not counted
    Heartbeat* heartbeat = nullptr;    // of the engine thread; may be null
    // Told of prefix-cache changes on the engine thread; may be null.
    std::function<void(PrefixCacheEvents)> cache_events;
  };

  // Refuses budgets that could starve (texts: KV cache specification section
  // 7.2). Borrows everything in `parts` for its lifetime.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const EngineOptions& options, Parts parts);
  virtual ~Engine() = default;

  // Turns until Stop(): ends what is left with kUnavailable, then returns.
  virtual void Run() = 0;
  virtual void Stop() = 0;

  // The sink lives until OnFinished returned. Refusals (queue full, draining,
  // can never fit, ...) come as OnFinished without OnStarted.
  virtual void Submit(Request request, std::shared_ptr<TokenSink> sink) = 0;
  // Any number of times, also before Submit or after the end. The final status
  // is `cause` (kCancelled, kDeadlineExceeded, kUnavailable).
  virtual void Cancel(RequestKey key, absl::Status cause) = 0;
  // While paused a request gets no more tokens, beyond those of steps that
  // are launched; its blocks are the first to go when others need some. No
  // effect on a request that is over or unknown.
  virtual void SetPaused(RequestKey key, bool paused) = 0;
  // New requests are refused with kUnavailable, reason DRAINING.
  virtual void StartDraining() = 0;

  // Replies of the KV hand-over.
  virtual void RemoteReady(RequestKey key, FirstTokens first) = 0;
  // `recompute`: prefill here instead; else the request ends with `cause`.
  virtual void RemoteFailed(RequestKey key, absl::Status cause,
                            bool recompute) = 0;
  // As RemoteFailed, but the source may still write the reserved blocks: they
  // are given to nobody before RemoteReleased.
  virtual void RemoteQuarantined(RequestKey key, absl::Status cause,
                                 bool recompute) = 0;
  virtual void RemoteReleased(RequestKey key) = 0;
  virtual void ReleaseHeld(RequestKey key) = 0;

  // Drops every cached hash.
  virtual void ResetPrefixCache() = 0;

  virtual SnapshotRef<EngineStats> stats() const = 0;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_ENGINE_H_
