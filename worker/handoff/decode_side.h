#ifndef WORKER_HANDOFF_DECODE_SIDE_H_
#define WORKER_HANDOFF_DECODE_SIDE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "kvtransfer/transfer_engine.h"
#include "worker/engine/engine.h"
#include "worker/engine/kv_handoff.h"

namespace sluice::worker {

// What the server wants to hear about one remote prompt.
struct RemotePrompt {
  std::string source;        // prefill instance that may claim the ticket
  uint32_t deadline_ms = 0;  // of the transfer
  bool recompute = true;     // after a failure; else the request ends
  // The ticket for the prefill side; on the engine thread.
  std::function<void(const kvtransfer::Ticket&)> on_ticket;
  // How the transfer ended; on the transfer thread.
  std::function<void(const kvtransfer::TransferResult&)> on_transfer;
};

// Decode side of the hand-over: turns reserved blocks into a ticket, and a
// completed transfer plus the first tokens into Engine::RemoteReady. Every
// reservation gets exactly one RemoteReady, RemoteFailed or RemoteQuarantined;
// the last is followed by RemoteReleased when the source can write no more.
// Called from the engine thread and the transfer thread; its table is under one
// mutex, and no call leaves while it is held.
class DecodeSide {
 public:
  explicit DecodeSide(kvtransfer::TransferEngine& transfers)
      : transfers_(transfers) {}

  // Set once, before anything else; borrowed.
  void set_engine(Engine* engine) { engine_ = engine; }

  // Before Engine::Submit of a kDecode request.
  void Expect(RequestKey key, RemotePrompt prompt);
  // After the final status of a request that was refused before its blocks
  // were reserved; others leave by themselves.
  void Forget(RequestKey key);

  void OnReserved(const RemoteReservation& reservation);
  void OnWithdrawn(RequestKey key, const absl::Status& cause);

 private:
  struct Waiting {
    RemotePrompt prompt;
    std::optional<kvtransfer::TransferId> transfer;  // once ticketed
    bool withdrawn = false;
    bool received = false;  // the KV is here
    std::optional<FirstTokens> first;
    std::optional<absl::Status> bad_first;  // came, and was malformed
  };

  void OnTransferEnded(RequestKey key,
                       const kvtransfer::TransferResult& result);
  void OnAttachment(RequestKey key, const absl::StatusOr<std::string>& bytes);
  void Fail(RequestKey key, const absl::Status& cause,
            bool quarantined = false);

  kvtransfer::TransferEngine& transfers_;
  Engine* engine_ = nullptr;
  Mutex mu_;
  absl::flat_hash_map<RequestKey, Waiting> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_DECODE_SIDE_H_
