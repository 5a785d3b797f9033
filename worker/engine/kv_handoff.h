#ifndef WORKER_ENGINE_KV_HANDOFF_H_
#define WORKER_ENGINE_KV_HANDOFF_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/request.h"
#include "worker/engine/token_sink.h"

namespace sluice::worker {

// Decode side: where a remote prompt's KV shall land.
struct RemoteReservation {
  RequestKey key = 0;
  // From position 0, ceil(num_tokens / block_tokens) entries; those wholly
  // below skip_tokens are shared with the prefix cache and must not be written.
  std::vector<BlockId> blocks;
  uint32_t skip_tokens = 0;  // multiple of block_tokens, < num_tokens
  uint32_t num_tokens = 0;   // the prompt
};

// Prefill side: part of a prompt that step `step` computes.
struct PromptChunk {
  RequestKey key = 0;
  uint64_t step = 0;
  uint32_t t0 = 0;  // entries [0, t0) are final already
  uint32_t t1 = 0;
  uint32_t num_tokens = 0;      // the prompt; t1 == num_tokens: the last chunk
  std::vector<BlockId> blocks;  // cover [0, t1)
};

// First token of every choice, sampled by the prefill side.
struct FirstTokens {
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;  // empty, or one a choice
};

// What the engine tells the KV hand-over. Called on the engine thread; must not
// block. The replies are Engine::RemoteReady, RemoteFailed, RemoteQuarantined
// with RemoteReleased, ReleaseHeld.
class KvHandoff {
 public:
  virtual ~KvHandoff() = default;

  // kDecode: the blocks stay reserved until RemoteReady or RemoteFailed, or, if
  // the source may write them beyond that, RemoteQuarantined and then
  // RemoteReleased.
  virtual void OnReserved(const RemoteReservation& reservation) = 0;
  // kDecode: the request ended (cancel, deadline). Every operation on its
  // blocks of ours must be ended and then RemoteFailed or RemoteQuarantined
  // called; only then are they free, or quarantined.
  virtual void OnWithdrawn(RequestKey key, const absl::Status& cause) = 0;

  // kPrefill: launched; its layers become final as LayerObserver tells.
  virtual void OnChunkLaunched(const PromptChunk& chunk) = 0;
  // kPrefill: all layers of the chunk of `step` are final.
  virtual void OnChunkDone(RequestKey key, uint64_t step) = 0;
  // kPrefill: the prompt is done. The blocks stay pinned until ReleaseHeld.
  virtual void OnFirstTokens(RequestKey key, const FirstTokens& first) = 0;
  // kPrefill: ended before its first tokens. ReleaseHeld is still due.
  virtual void OnPrefillFailed(RequestKey key, const absl::Status& cause) = 0;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_KV_HANDOFF_H_
