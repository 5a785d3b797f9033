#ifndef WORKER_ENGINE_REQUEST_TIMELINE_H_
#define WORKER_ENGINE_REQUEST_TIMELINE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/engine_metrics.h"
#include "worker/engine/request.h"
#include "worker/engine/scheduler_event.h"

namespace sluice::worker {

// When the stages of one request happened on this worker, and what they add to
// the metrics. Engine thread. Times are Clock::NowMicros(); `metrics` may be
// null: nothing is counted.
class RequestTimeline {
 public:
  RequestTimeline(const Request& request, EngineMetrics* metrics,
                  int64_t now_us);

  void OnStarted(const StartedEvent& event, int64_t now_us);
  void OnReserved(const RemoteReservation& reservation);
  // The prompt is computed here although it was to come from a peer.
  void OnRecompute() { from_peer_ = false; }
  void OnTokens(const TokenRun& run, int64_t now_us);
  void OnChoiceEnded(const ChoiceEnding& ending);
  void OnFinished(const FinishedEvent& event, int64_t now_us);

 private:
  void CountPrompt();

  EngineMetrics* metrics_;
  uint32_t prompt_tokens_;
  uint32_t max_tokens_;
  uint32_t n_;
  bool from_peer_;
  bool prompt_counted_ = false;
  uint32_t cached_tokens_ = 0;
  uint32_t choices_ended_ = 0;
  uint32_t longest_choice_ = 0;
  int64_t arrived_us_;
  int64_t started_us_ = 0;              // 0: not yet
  int64_t first_token_us_ = 0;          // 0: not yet
  std::vector<int64_t> last_token_us_;  // by choice; 0: none yet
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_REQUEST_TIMELINE_H_
