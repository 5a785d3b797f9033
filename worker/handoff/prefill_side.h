#ifndef WORKER_HANDOFF_PREFILL_SIDE_H_
#define WORKER_HANDOFF_PREFILL_SIDE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "kvtransfer/transfer_engine.h"
#include "worker/engine/engine.h"
#include "worker/engine/kv_handoff.h"

namespace sluice::worker {

// Prefill side of the hand-over: offers a prompt's KV to the transfer engine
// layer by layer while it is computed, then the first tokens, and releases the
// blocks when the transfer has ended: often before the first tokens exist.
// Called from gRPC threads (Start), the engine thread, the rank thread
// (OnLayersDone) and the transfer thread; its table is under one mutex, held
// while offers are posted so that those of one transfer stay in order.
class PrefillSide {
 public:
  // `layers` of the model; `block_tokens` of our pool.
  PrefillSide(kvtransfer::TransferEngine& transfers, uint32_t layers,
              uint32_t block_tokens);

  void set_engine(Engine* engine) { engine_ = engine; }

  // Before Engine::Submit of a kPrefill request. `on_ended` runs once on the
  // transfer thread. Errors are the ticket's: kInvalidArgument for a malformed
  // one, kAlreadyExists while another request sends for it.
  absl::Status Start(
      RequestKey key, const kvtransfer::Ticket& ticket,
      std::function<void(const kvtransfer::TransferResult&)> on_ended);
  // The engine refused the request or ended it: ends the transfer too.
  void Abandon(RequestKey key, const absl::Status& cause);

  void OnChunkLaunched(const PromptChunk& chunk);
  void OnLayersDone(uint64_t step, uint32_t layers_done);
  void OnChunkDone(RequestKey key, uint64_t step);
  void OnFirstTokens(RequestKey key, const FirstTokens& first);

 private:
  struct Sending {
    kvtransfer::TransferId transfer;
    uint32_t skip_tokens = 0;
    PromptChunk chunk;  // launched and not done, if `in_step`
    bool in_step = false;
    bool completed = false;  // the transfer is over
    bool sent_first = false;
    bool abandoned = false;       // no first tokens will come
    uint32_t offered_layers = 0;  // of `chunk`
    uint32_t offered_tokens = 0;  // all layers of [0, this) are offered
  };

  void OnTransferEnded(RequestKey key,
                       const kvtransfer::TransferResult& result);
  void OfferLayers(Sending& sending, uint32_t layers_done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Offer(const Sending& sending, kvtransfer::Rectangle rectangle)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  kvtransfer::TransferEngine& transfers_;
  const uint32_t layers_;
  const uint32_t block_tokens_;
  const uint32_t layers_per_offer_;
  Engine* engine_ = nullptr;
  Mutex mu_;
  absl::flat_hash_map<RequestKey, Sending> sending_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_PREFILL_SIDE_H_
