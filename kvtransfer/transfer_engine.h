#ifndef KVTRANSFER_TRANSFER_ENGINE_H_
#define KVTRANSFER_TRANSFER_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/snapshot.h"
#include "kvtransfer/append_digests.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/peer_offer.h"
#include "kvtransfer/peer_table.h"
#include "kvtransfer/region_table.h"
#include "kvtransfer/staging_table.h"
#include "kvtransfer/transfer_args.h"
#include "kvtransfer/transfer_observer.h"
#include "kvtransfer/transfer_stats.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

// Carries control messages to peers; the layer above owns the stream.
class ControlLink {
 public:
  virtual ~ControlLink() = default;
  // Called on the transfer thread; queues and returns. A message to a peer
  // without a stream is dropped (the protocol re-sends).
  virtual void Send(const std::string& peer, const ControlMessage& message) = 0;
};

struct EngineOptions {
  LayoutManifest manifest;  // ours; valid
  Region region;            // our KV memory
  // In order of preference. Empty only in a process that never transfers.
  std::vector<std::unique_ptr<Transport>> transports;
  // Optional, outlives the engine: digests of our KV as it was written. Without
  // it a source reads what it announces once more. Blocks that are received
  // into are forgotten here; every other writer appends.
  AppendDigests* append_digests = nullptr;
  ControlLink* control = nullptr;  // outlives the engine
  const Clock* clock = nullptr;    // outlives the engine
  bool can_send = true;            // prefill or mixed role
  bool can_receive = true;         // decode or mixed role
  uint32_t heartbeat_ms = 1000;
  uint32_t peer_lost_ms = 3000;
  uint32_t resend_ms = 200;  // doubles to 2000
  uint32_t drain_timeout_ms = 5000;
  uint32_t stop_timeout_ms = 3000;  // put: a Stop unanswered loses the peer
  uint32_t record_ms = 60000;       // terminal records
  uint32_t max_records = 65536;
  uint64_t stream_window_bytes = 4 << 20;
  uint32_t stream_message_bytes = 128 << 10;  // 64 .. 256 KiB, our receives
  StagingArea staging;  // put: of `region`, behind the manifest's groups
  // Off proves nothing of what arrives: for benchmarks that measure what the
  // digests cost, on both sides alike.
  bool digests = true;
  TransferObserver* observer = nullptr;  // optional, outlives the engine
  // Optional: a peer changed its state (also seen in Peers()).
  std::function<void(const PeerInfo&)> on_peer;
};

// Moves KV blocks between this worker and its peers (README.md). All state
// belongs to the transfer thread, which calls RunOnce(); methods marked
// "any thread" post to its inbox. Never blocks, never frees KV memory.
class TransferEngine {
 public:
  // kInvalidArgument: bad manifest or region smaller than the manifest says.
  static absl::StatusOr<std::unique_ptr<TransferEngine>> Create(
      EngineOptions options);
  // CHECKs that nothing is under way: Shutdown() and run until drained first.
  ~TransferEngine();

  // --- any thread -------------------------------------------------------

  // Checks and registers a destination; the ticket is what the source needs.
  // kInvalidArgument with the value for bad lists, alignment or deadline.
  absl::StatusOr<Ticket> StartReceive(ReceiveArgs args);
  // Checks and registers a source. kFailedPrecondition for a layout that is
  // not the peer's, kInvalidArgument for a malformed ticket; other failures
  // arrive through on_ended.
  absl::Status StartSend(SendArgs args);
  void OfferRectangle(RectangleOffer offer);
  // Delivers `bytes` to the destination's on_attachment, once per transfer;
  // before or after the last rectangle.
  void SendAttachment(const TransferId& id, std::string bytes);
  // Ends it on whichever side we are; no effect when it is over or unknown.
  // kCancelled -> Cancelled, kDeadlineExceeded -> Expired, else Failed.
  void Cancel(const TransferId& id, absl::Status cause);

  // Pairing. The dialling side: PrepareOffer(), Pair RPC, CheckOffer() and
  // Pair() with the answer. The answering side: CheckOffer(), PrepareOffer(),
  // Pair(), answer. Then the link opens and both call OnLinkUp().
  PeerOffer PrepareOffer() const;
  // Status for the RPC: kFailedPrecondition texts of section 2, kAborted
  // `stale generation <g>, current <h>`, kInvalidArgument.
  // `to_generation`: ours as the caller knows it, 0 if it does not.
  absl::Status CheckOffer(const PeerOffer& theirs,
                          uint64_t to_generation) const;
  void Pair(const PeerOffer& ours, const PeerOffer& theirs);
  void OnLinkUp(const std::string& worker);
  void OnLinkDown(const std::string& worker, absl::Status status);
  void OnMessage(const std::string& worker, ControlMessage message);

  SnapshotRef<std::vector<PeerInfo>> Peers() const;
  SnapshotRef<TransferStats> Stats() const;

  // Cancels everything and closes peers; drained() turns true when the last
  // operation ended. New transfers are refused with kUnavailable.
  void Shutdown();
  bool drained() const;

  // --- transfer thread ----------------------------------------------------

  // One bounded round of work. Returns for how many microseconds the thread
  // may sleep unless woken or a descriptor is readable; 0: call again. Without
  // `may_sleep` it must call again all the same, and nothing was published.
  int64_t RunOnce(bool may_sleep = true);
  // Descriptors to watch, fixed after creation. `wake` rings when another
  // thread posted, and is not called any more once another is set.
  std::vector<int> Descriptors() const;
  void SetWake(std::function<void()> wake);

  // CHECKs tables, counts and regions against each other.
  void CheckInvariants() const;

 private:
  class Core;  // engine_core.h
  explicit TransferEngine(std::unique_ptr<Core> core);

  const std::unique_ptr<Core> core_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_ENGINE_H_
