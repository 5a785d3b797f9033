#ifndef WORKER_ENGINE_ENGINE_METRICS_H_
#define WORKER_ENGINE_ENGINE_METRICS_H_

#include <cstdint>
#include <string>

#include "base/metrics.h"

namespace sluice::worker {

// Every metric the engine writes, made in `registry` at construction; the
// engine thread writes, scrapes read. Names, labels and buckets: observability
// specification sections 2 and 3.2.
struct EngineMetrics {
  struct Labels {
    std::string model_name;
    uint32_t model_length = 0;  // tokens, last bucket of token histograms
  };
  EngineMetrics(MetricRegistry& registry, const Labels& labels);

  // vLLM's names.
  Gauge* running = nullptr;
  Gauge* waiting = nullptr;
  Gauge* waiting_capacity = nullptr;
  Gauge* waiting_deferred = nullptr;
  Gauge* kv_usage = nullptr;
  Counter* prefix_queries = nullptr;
  Counter* prefix_hits = nullptr;
  Counter* external_queries = nullptr;
  Counter* external_hits = nullptr;
  Counter* prompt_tokens = nullptr;
  Counter* generation_tokens = nullptr;
  Counter* prompt_local_compute = nullptr;
  Counter* prompt_local_cache_hit = nullptr;
  Counter* prompt_external = nullptr;
  Counter* prompt_cached = nullptr;
  Counter* preemptions = nullptr;
  Counter* finished_stop = nullptr;
  Counter* finished_length = nullptr;
  Counter* finished_abort = nullptr;
  Counter* corrupted = nullptr;
  Histogram* ttft_seconds = nullptr;
  Histogram* itl_seconds = nullptr;
  Histogram* tpot_seconds = nullptr;
  Histogram* e2e_seconds = nullptr;
  Histogram* queue_seconds = nullptr;
  Histogram* inference_seconds = nullptr;
  Histogram* prefill_seconds = nullptr;
  Histogram* decode_seconds = nullptr;
  Histogram* request_prompt_tokens = nullptr;
  Histogram* request_generation_tokens = nullptr;
  Histogram* request_max_generation_tokens = nullptr;
  Histogram* request_max_tokens = nullptr;
  Histogram* request_computed_tokens = nullptr;
  Histogram* request_n = nullptr;
  Histogram* iteration_tokens = nullptr;

  // Our own.
  Histogram* step_prefill_seconds = nullptr;
  Histogram* step_decode_seconds = nullptr;
  Histogram* step_mixed_seconds = nullptr;
  Histogram* step_rows = nullptr;
  Histogram* step_tokens = nullptr;
  Gauge* sched_waiting_seqs = nullptr;
  Gauge* sched_oldest_wait_seconds = nullptr;
  Counter* preemptions_blocks = nullptr;
  CounterFamily* cancels = nullptr;  // by state
  Gauge* blocks_free = nullptr;
  Gauge* blocks_cached = nullptr;
  Gauge* blocks_active = nullptr;
  Gauge* blocks_quarantined = nullptr;
  Counter* ledger_violations = nullptr;
  Counter* prefix_tokens_queried = nullptr;
  Counter* prefix_tokens_hit = nullptr;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_ENGINE_METRICS_H_
