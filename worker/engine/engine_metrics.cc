#include "worker/engine/engine_metrics.h"

#include <string>
#include <vector>

namespace sluice::worker {
namespace {

constexpr double kTtftBuckets[] = {.001, .005, .01, .02, .04, .06, .08, .1,
                                   .25,  .5,   .75, 1,   2.5, 5,   7.5, 10,
                                   20,   40,   80,  160, 640, 2560};
constexpr double kItlBuckets[] = {.01, .025, .05, .075, .1, .15, .2,
                                  .3,  .4,   .5,  .75,  1,  2.5, 5,
                                  7.5, 10,   20,  40,   80};
constexpr double kPhaseBuckets[] = {.3, .5,  .8,  1,   1.5, 2,    2.5,
                                    5,  10,  15,  20,  30,  40,   50,
                                    60, 120, 240, 480, 960, 1920, 7680};
constexpr double kChoicesBuckets[] = {1, 2, 5, 10, 20};
constexpr double kIterationBuckets[] = {1,   8,    16,   32,   64,   128,  256,
                                        512, 1024, 2048, 4096, 8192, 16384};

// Whose labels a series has beside its own.
enum class Scope { kReplica, kProcess };

struct Label {
  const char* name = nullptr;
  const char* value = nullptr;
};

template <typename M>
struct Series {
  M* EngineMetrics::*field;
  const char* name;
  const char* help;
  Scope scope = Scope::kReplica;
  Label label = {};
};

constexpr char kFinished[] = "vllm:request_success_total";
constexpr char kFinishedText[] = "Finished sequences by reason";
constexpr char kBySource[] = "vllm:prompt_tokens_by_source_total";
constexpr char kBySourceText[] = "Prompt tokens by where their KV came from";
constexpr char kWaitingBy[] = "vllm:num_requests_waiting_by_reason";
constexpr char kWaitingByText[] = "Waiting sequences by what they wait for";
constexpr char kBlocks[] = "sluice_kv_blocks";
constexpr char kBlocksText[] = "KV blocks by state; the sum is usable";

using E = EngineMetrics;

const Series<Counter> kCounters[] = {
    {&E::prefix_queries, "vllm:prefix_cache_queries_total",
     "Prompt tokens looked up in the prefix cache"},
    {&E::prefix_hits, "vllm:prefix_cache_hits_total",
     "Prompt tokens found in the prefix cache"},
    {&E::external_queries, "vllm:external_prefix_cache_queries_total",
     "Prompt tokens asked from another worker"},
    {&E::external_hits, "vllm:external_prefix_cache_hits_total",
     "Prompt tokens received from another worker"},
    {&E::prompt_tokens, "vllm:prompt_tokens_total",
     "Prompt tokens of admitted sequences"},
    {&E::generation_tokens, "vllm:generation_tokens_total", "Tokens emitted"},
    {&E::prompt_local_compute,
     kBySource,
     kBySourceText,
     Scope::kReplica,
     {"source", "local_compute"}},
    {&E::prompt_local_cache_hit,
     kBySource,
     kBySourceText,
     Scope::kReplica,
     {"source", "local_cache_hit"}},
    {&E::prompt_external,
     kBySource,
     kBySourceText,
     Scope::kReplica,
     {"source", "external_kv_transfer"}},
    {&E::prompt_cached, "vllm:prompt_tokens_cached_total",
     "Prompt tokens not computed here"},
    {&E::preemptions, "vllm:num_preemptions_total",
     "Sequences sent back to waiting"},
    {&E::finished_stop,
     kFinished,
     kFinishedText,
     Scope::kReplica,
     {"finished_reason", "stop"}},
    {&E::finished_length,
     kFinished,
     kFinishedText,
     Scope::kReplica,
     {"finished_reason", "length"}},
    {&E::finished_abort,
     kFinished,
     kFinishedText,
     Scope::kReplica,
     {"finished_reason", "abort"}},
    {&E::corrupted, "vllm:corrupted_requests_total",
     "Requests ended for logits that are not finite"},
    {&E::preemptions_blocks,
     "sluice_preemptions_total",
     "Sequences sent back to waiting, by reason",
     Scope::kProcess,
     {"reason", "blocks"}},
    {&E::ledger_violations, "sluice_ledger_violations_total",
     "Broken invariants of the block ledger", Scope::kProcess},
    {&E::prefix_tokens_queried, "sluice_prefix_tokens_queried_total",
     "Tokens looked up in the prefix cache", Scope::kProcess},
    {&E::prefix_tokens_hit, "sluice_prefix_tokens_hit_total",
     "Tokens found in the prefix cache", Scope::kProcess},
};

const Series<Gauge> kGauges[] = {
    {&E::running, "vllm:num_requests_running",
     "Sequences in the running set after the last step"},
    {&E::waiting, "vllm:num_requests_waiting",
     "Sequences admitted and not running"},
    {&E::waiting_capacity,
     kWaitingBy,
     kWaitingByText,
     Scope::kReplica,
     {"reason", "capacity"}},
    {&E::waiting_deferred,
     kWaitingBy,
     kWaitingByText,
     Scope::kReplica,
     {"reason", "deferred"}},
    {&E::kv_usage, "vllm:kv_cache_usage_perc",
     "Active and quarantined blocks over usable ones, 0..1"},
    {&E::sched_waiting_seqs, "sluice_sched_waiting_seqs",
     "Sequences admitted and not running", Scope::kProcess},
    {&E::sched_oldest_wait_seconds, "sluice_sched_oldest_wait_seconds",
     "Longest current wait for a step", Scope::kProcess},
    {&E::blocks_free, kBlocks, kBlocksText, Scope::kProcess, {"state", "free"}},
    {&E::blocks_cached,
     kBlocks,
     kBlocksText,
     Scope::kProcess,
     {"state", "cached"}},
    {&E::blocks_active,
     kBlocks,
     kBlocksText,
     Scope::kProcess,
     {"state", "active"}},
    {&E::blocks_quarantined,
     kBlocks,
     kBlocksText,
     Scope::kProcess,
     {"state", "quarantined"}},
};

struct Spread {
  Series<Histogram> series;
  absl::Span<const double> bounds;  // empty: token counts up to model length
};

constexpr char kStep[] = "sluice_step_seconds";
constexpr char kStepText[] = "Launch to tokens on the host";

const Spread kSpreads[] = {
    {{&E::ttft_seconds, "vllm:time_to_first_token_seconds",
      "Arrival at this worker to the first token here"},
     kTtftBuckets},
    {{&E::itl_seconds, "vllm:inter_token_latency_seconds",
      "Between two tokens of a sequence"},
     kItlBuckets},
    {{&E::tpot_seconds, "vllm:request_time_per_output_token_seconds",
      "Mean time between the tokens of a request"},
     kItlBuckets},
    {{&E::e2e_seconds, "vllm:e2e_request_latency_seconds",
      "Arrival at this worker to the end"},
     kPhaseBuckets},
    {{&E::queue_seconds, "vllm:request_queue_time_seconds",
      "Arrival to first planned"},
     kPhaseBuckets},
    {{&E::inference_seconds, "vllm:request_inference_time_seconds",
      "First planned to the end"},
     kPhaseBuckets},
    {{&E::prefill_seconds, "vllm:request_prefill_time_seconds",
      "First planned to the first token"},
     kPhaseBuckets},
    {{&E::decode_seconds, "vllm:request_decode_time_seconds",
      "First token to the end"},
     kPhaseBuckets},
    {{&E::request_prompt_tokens, "vllm:request_prompt_tokens",
      "Prompt tokens of a request"},
     {}},
    {{&E::request_generation_tokens, "vllm:request_generation_tokens",
      "Tokens generated for a request"},
     {}},
    {{&E::request_max_generation_tokens,
      "vllm:request_max_num_generation_tokens",
      "Longest choice of a request, tokens"},
     {}},
    {{&E::request_max_tokens, "vllm:request_params_max_tokens",
      "max_tokens of a request"},
     {}},
    {{&E::request_computed_tokens, "vllm:request_prefill_kv_computed_tokens",
      "Prompt tokens computed here for a request"},
     {}},
    {{&E::request_n, "vllm:request_params_n", "n of a request"},
     kChoicesBuckets},
    {{&E::iteration_tokens, "vllm:iteration_tokens_total", "Tokens per step"},
     kIterationBuckets},
    {{&E::step_prefill_seconds,
      kStep,
      kStepText,
      Scope::kProcess,
      {"kind", "prefill"}},
     kLatencyBuckets},
    {{&E::step_decode_seconds,
      kStep,
      kStepText,
      Scope::kProcess,
      {"kind", "decode"}},
     kLatencyBuckets},
    {{&E::step_mixed_seconds,
      kStep,
      kStepText,
      Scope::kProcess,
      {"kind", "mixed"}},
     kLatencyBuckets},
    {{&E::step_rows, "sluice_step_rows", "Rows per step", Scope::kProcess},
     kTokensBuckets},
    {{&E::step_tokens, "sluice_sched_step_tokens", "New tokens per step",
      Scope::kProcess},
     kTokensBuckets},
};

// 1 2 5 10 ... up to `last`.
std::vector<double> LengthBuckets(uint32_t last) {
  std::vector<double> bounds;
  for (double decade = 1; decade <= last; decade *= 10) {
    for (double digit : {1, 2, 5}) {
      if (decade * digit <= last) bounds.push_back(decade * digit);
    }
  }
  return bounds;
}

}  // namespace

EngineMetrics::EngineMetrics(MetricRegistry& registry, const Labels& labels) {
  const auto labels_of = [&labels](const auto& series) {
    MetricLabels all;
    if (series.scope == Scope::kReplica) {
      all = {{"model_name", labels.model_name}, {"engine", "0"}};
    }
    if (series.label.name != nullptr) {
      all.emplace_back(series.label.name, series.label.value);
    }
    return all;
  };
  for (const auto& series : kCounters) {
    this->*series.field =
        &registry.AddCounter(series.name, series.help, labels_of(series));
  }
  for (const auto& series : kGauges) {
    this->*series.field =
        &registry.AddGauge(series.name, series.help, labels_of(series));
  }
  const std::vector<double> lengths = LengthBuckets(labels.model_length);
  for (const Spread& spread : kSpreads) {
    this->*spread.series.field = &registry.AddHistogram(
        spread.series.name, spread.series.help,
        spread.bounds.empty() ? absl::MakeConstSpan(lengths) : spread.bounds,
        labels_of(spread.series));
  }
  cancels = &registry.AddCounterFamily(
      "sluice_cancels_total", "Cancels and deadlines by state at arrival",
      {"state"});
  cancels->CreateAll({{"unknown", "waiting", "partial", "running", "launched",
                       "remote", "held", "finished"}});
}

}  // namespace sluice::worker
