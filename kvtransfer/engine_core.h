#ifndef KVTRANSFER_ENGINE_CORE_H_
#define KVTRANSFER_ENGINE_CORE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/inbox.h"
#include "base/mutex.h"
#include "base/snapshot.h"
#include "kvtransfer/destination_transfer.h"
#include "kvtransfer/peer_table.h"
#include "kvtransfer/quarantine.h"
#include "kvtransfer/region_table.h"
#include "kvtransfer/source_transfer.h"
#include "kvtransfer/staging_table.h"
#include "kvtransfer/transfer_engine.h"

namespace sluice::kvtransfer {

// The transfer thread's half of TransferEngine: transfers by id, peers, and
// the routing of messages between them. Only `inbox`, `drained` and the
// snapshots are touched by other threads.
class TransferEngine::Core : public TransportEvents {
 public:
  explicit Core(EngineOptions options);
  ~Core() override;

  absl::Status Start();
  int64_t RunOnce(bool may_sleep);
  void CheckInvariants() const;

  // Commands, on the transfer thread.
  void StartReceive(const Ticket& ticket, ReceiveArgs args);
  void StartSend(SendArgs args);
  void Offer(const RectangleOffer& offer);
  void SendAttachment(const TransferId& id, std::string bytes);
  void Cancel(const TransferId& id, const absl::Status& cause);
  void OnMessage(const std::string& worker, const ControlMessage& message);
  void Shutdown();
  void CountRefusal(const std::string& reason);

  // TransportEvents; link changes are kept until no transport is running.
  void OnLinkUp(LinkId link) override;
  void OnLinkDown(LinkId link, const absl::Status& status) override;
  void OnData(LinkId link, const DataHeader& header,
              absl::Span<const std::byte> payload) override;
  void OnFenced(LinkId link, Fence fence) override;

  EngineOptions options;
  // Held while it rings: after SetWake() nobody is inside the one before.
  Mutex wake_mu;
  std::function<void()> wake ABSL_GUARDED_BY(wake_mu);
  Inbox<std::function<void()>> inbox;
  Snapshot<std::vector<PeerInfo>> peer_infos;
  Snapshot<TransferStats> stats_snapshot;
  std::atomic<bool> shutting_down{false};
  std::atomic<bool> drained{false};
  std::unique_ptr<PeerTable> peers;

 private:
  struct LinkEvent {
    LinkId link;
    bool up;
    absl::Status status;
  };
  struct Record {
    int64_t expires_ms;
    TransferId id;
    bool source;
  };
  struct WaitingSource {
    TransferId id;
    int64_t since_ms;
  };

  PeerTableOptions MakePeerOptions();
  bool RunInbox();
  bool HandleLinkEvents();
  bool HandleLost();
  bool WorkTransfers();
  void Tick(int64_t now_ms);
  void TickLingering();
  void BindSources(int64_t now_ms);
  void Retire(int64_t now_ms);
  void ExpireRecords(int64_t now_ms);
  void Publish();
  void FinishShutdown();
  bool WaitForFences();
  void ForgetSource(const TransferId& id);
  int64_t SleepMicros() const;

  bool IsStale(const Peer& peer, const ControlMessage& message);
  void AnswerStale(const Peer& peer, const ControlMessage& message);
  void ToDestination(const Peer& peer, const ControlMessage& message);
  void ToSource(const Peer& peer, const ControlMessage& message);
  void AnswerUnknown(const std::string& worker, const ControlMessage& message);
  void OnClaim(DestinationTransfer& transfer, const Peer& peer,
               const Claim& claim);
  bool OnPeerLost(const Peer& peer, const absl::Status& why);
  void Send(const std::string& worker, const TransferId& id, ControlBody body);
  DestinationTransfer* FindDestination(const TransferId& id);
  SourceTransfer* FindSource(const TransferId& id);

  RegionTable regions_;
  TransferStats stats_;
  TransferContext context_;
  StagingTable staging_;
  Quarantine quarantine_;
  absl::flat_hash_map<TransferId, std::unique_ptr<DestinationTransfer>>
      destinations_;
  absl::flat_hash_map<TransferId, std::unique_ptr<SourceTransfer>> sources_;
  std::vector<DestinationTransfer*> active_destinations_;
  std::vector<SourceTransfer*> active_sources_;
  std::vector<WaitingSource> waiting_sources_;  // no peer yet
  std::deque<Record> records_;                  // by expiry
  std::vector<TransferId> lingering_;           // ended, with timers
  // Forgotten sends whose puts may land yet; too many: any may.
  absl::flat_hash_set<TransferId> unproven_;
  bool unproven_overflow_ = false;
  int64_t shutdown_ms_ = 0;
  bool deregistered_ = false;
  std::vector<LinkEvent> link_events_;
  std::vector<std::pair<std::string, absl::Status>> lost_;
  int64_t last_tick_ms_ = -1;
  bool dirty_ = true;
  bool peers_dirty_ = true;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_ENGINE_CORE_H_
