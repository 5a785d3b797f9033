#ifndef WORKER_HANDOFF_HANDOFF_H_
#define WORKER_HANDOFF_HANDOFF_H_

#include <cstdint>

#include "worker/engine/executor.h"
#include "worker/engine/kv_handoff.h"
#include "worker/handoff/decode_side.h"
#include "worker/handoff/prefill_side.h"

namespace sluice::worker {

// Both sides of the KV hand-over behind the interfaces the engine and the rank
// threads know. Owns nothing but the two sides; forwards.
class Handoff final : public KvHandoff, public LayerObserver {
 public:
  Handoff(kvtransfer::TransferEngine& transfers, uint32_t layers,
          uint32_t block_tokens)
      : decode_(transfers), prefill_(transfers, layers, block_tokens) {}

  // Set once, before the engine and the transfer thread run.
  void set_engine(Engine* engine) {
    decode_.set_engine(engine);
    prefill_.set_engine(engine);
  }

  DecodeSide& decode() { return decode_; }
  PrefillSide& prefill() { return prefill_; }

  void OnReserved(const RemoteReservation& reservation) override {
    decode_.OnReserved(reservation);
  }
  void OnWithdrawn(RequestKey key, const absl::Status& cause) override {
    decode_.OnWithdrawn(key, cause);
  }
  void OnChunkLaunched(const PromptChunk& chunk) override {
    prefill_.OnChunkLaunched(chunk);
  }
  void OnLayersDone(uint64_t step, uint32_t layers_done) override {
    prefill_.OnLayersDone(step, layers_done);
  }
  void OnChunkDone(RequestKey key, uint64_t step) override {
    prefill_.OnChunkDone(key, step);
  }
  void OnFirstTokens(RequestKey key, const FirstTokens& first) override {
    prefill_.OnFirstTokens(key, first);
  }
  void OnPrefillFailed(RequestKey key, const absl::Status& cause) override {
    prefill_.Abandon(key, cause);
  }

 private:
  DecodeSide decode_;
  PrefillSide prefill_;
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_HANDOFF_H_
