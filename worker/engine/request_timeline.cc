#include "worker/engine/request_timeline.h"

#include <algorithm>

namespace sluice::worker {
namespace {

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

}  // namespace

RequestTimeline::RequestTimeline(const Request& request, EngineMetrics* metrics,
                                 int64_t now_us)
    : metrics_(metrics),
      prompt_tokens_(static_cast<uint32_t>(request.prompt.size())),
      max_tokens_(static_cast<uint32_t>(request.sampling.max_tokens)),
      n_(static_cast<uint32_t>(request.sampling.n)),
      from_peer_(request.phase == RequestPhase::kDecode),
      arrived_us_(now_us),
      last_token_us_(n_, 0) {}

void RequestTimeline::OnStarted(const StartedEvent& event, int64_t now_us) {
  started_us_ = now_us;
  cached_tokens_ = event.cached_tokens;
  if (metrics_ == nullptr) return;
  metrics_->queue_seconds->Observe(Seconds(now_us - arrived_us_));
  metrics_->request_prompt_tokens->Observe(prompt_tokens_);
  metrics_->request_max_tokens->Observe(max_tokens_);
  metrics_->request_n->Observe(n_);
  if (event.looked_up) {
    metrics_->prefix_queries->Add(prompt_tokens_);
    metrics_->prefix_hits->Add(cached_tokens_);
    metrics_->prefix_tokens_queried->Add(prompt_tokens_);
    metrics_->prefix_tokens_hit->Add(cached_tokens_);
  }
  if (!from_peer_) CountPrompt();
}

void RequestTimeline::OnReserved(const RemoteReservation& reservation) {
  if (metrics_ == nullptr) return;
  metrics_->external_queries->Add(reservation.num_tokens -
                                  reservation.skip_tokens);
}

void RequestTimeline::CountPrompt() {
  if (prompt_counted_ || metrics_ == nullptr) return;
  prompt_counted_ = true;
  const uint32_t rest = prompt_tokens_ - cached_tokens_;
  metrics_->prompt_tokens->Add(prompt_tokens_);
  metrics_->prompt_local_cache_hit->Add(cached_tokens_);
  metrics_->prompt_cached->Add(cached_tokens_ + (from_peer_ ? rest : 0));
  if (from_peer_) {
    metrics_->prompt_external->Add(rest);
    metrics_->external_hits->Add(rest);
  } else {
    metrics_->prompt_local_compute->Add(rest);
    metrics_->request_computed_tokens->Observe(rest);
  }
}

void RequestTimeline::OnTokens(const TokenRun& run, int64_t now_us) {
  const int64_t last_us = last_token_us_[run.choice];
  last_token_us_[run.choice] = now_us;
  if (metrics_ == nullptr) return;
  metrics_->generation_tokens->Add(run.tokens.size());
  if (last_us != 0) metrics_->itl_seconds->Observe(Seconds(now_us - last_us));
  if (first_token_us_ != 0) return;
  first_token_us_ = now_us;
  CountPrompt();
  metrics_->ttft_seconds->Observe(Seconds(now_us - arrived_us_));
  metrics_->prefill_seconds->Observe(Seconds(now_us - started_us_));
}

void RequestTimeline::OnChoiceEnded(const ChoiceEnding& ending) {
  ++choices_ended_;
  longest_choice_ = std::max(longest_choice_, ending.positions);
  if (metrics_ == nullptr) return;
  (ending.reason == FinishReason::kStop ? metrics_->finished_stop
                                        : metrics_->finished_length)
      ->Add();
}

void RequestTimeline::OnFinished(const FinishedEvent& event, int64_t now_us) {
  if (metrics_ == nullptr) return;
  if (!event.status.ok()) metrics_->finished_abort->Add(n_ - choices_ended_);
  if (event.bad_logits) metrics_->corrupted->Add();
  metrics_->e2e_seconds->Observe(Seconds(now_us - arrived_us_));
  if (started_us_ == 0) return;
  metrics_->inference_seconds->Observe(Seconds(now_us - started_us_));
  if (first_token_us_ == 0) return;
  metrics_->decode_seconds->Observe(Seconds(now_us - first_token_us_));
  metrics_->request_generation_tokens->Observe(event.usage.completion_tokens);
  metrics_->request_max_generation_tokens->Observe(longest_choice_);
  const int64_t last_us =
      *std::max_element(last_token_us_.begin(), last_token_us_.end());
  if (longest_choice_ > 1) {
    metrics_->tpot_seconds->Observe(Seconds(last_us - first_token_us_) /
                                    (longest_choice_ - 1));
  }
}

}  // namespace sluice::worker
