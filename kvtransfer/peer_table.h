#ifndef KVTRANSFER_PEER_TABLE_H_
#define KVTRANSFER_PEER_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "kvtransfer/peer_offer.h"
#include "kvtransfer/transfer_context.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

enum class PeerState { kPairing, kUp, kSuspect, kRefused };
const char* PeerStateName(PeerState state);

// What the outside sees of a peer. kSuspect: lost, to be paired again.
struct PeerInfo {
  std::string worker;
  uint64_t generation = 0;
  PeerState state = PeerState::kPairing;
  std::string transport;  // chosen for receiving from it; empty: none
  absl::Status status;    // why kSuspect or kRefused

  bool operator==(const PeerInfo&) const = default;
};

// One generation of one remote worker.
struct Peer {
  struct Link {
    Transport* transport = nullptr;
    LinkId id = 0;
    bool up = false;
  };

  PeerOffer ours;
  PeerOffer theirs;
  PeerState state = PeerState::kPairing;
  absl::Status status;
  bool control_up = false;
  int64_t offered_us = 0;  // when the offers were exchanged
  int64_t last_heard_ms = 0;
  int64_t last_sent_ms = 0;
  size_t next_dial = 0;           // transport to try next for reading
  bool must_read = false;         // we receive from it
  std::optional<Link> read_link;  // we dialled: data comes from it
  std::vector<Link> serve_links;  // it dials: data goes to it

  const std::string& worker() const { return theirs.manifest.worker; }
  uint64_t generation() const { return theirs.manifest.generation; }
  const Link* ServeLink(TransferMode mode) const;
  PeerInfo Info() const;
};

struct PeerTableOptions {
  const Clock* clock = nullptr;
  std::vector<Transport*> transports;  // in order of preference
  bool can_send = true;
  bool can_receive = true;
  uint32_t heartbeat_ms = 1000;
  uint32_t lost_ms = 3000;
  // Sends a heartbeat.
  std::function<void(const Peer&)> beat;
  // The pair can carry transfers.
  std::function<void(const Peer&)> on_up;
  // It cannot any more; called before its links are closed. True: somebody
  // still reads the read link, keep it for a while.
  std::function<bool(const Peer&, const absl::Status&)> on_lost;
  // A kept link is closed now.
  std::function<void(LinkId)> on_expired;
  std::function<void(const PeerInfo&)> on_change;
};

// The peers of this worker: which are paired, over which links, and which are
// lost. At most one generation of a worker at a time. Transfer thread only.
class PeerTable {
 public:
  explicit PeerTable(PeerTableOptions options) : options_(std::move(options)) {}

  // A new pairing; replaces (and loses) an older generation or an earlier
  // pairing of the same one. An offer of an older generation is ignored.
  void Pair(const PeerOffer& ours, const PeerOffer& theirs);
  void OnControlUp(const std::string& worker);
  void OnControlDown(const std::string& worker, const absl::Status& status);
  // A message of the current generation arrived.
  void OnHeard(const std::string& worker);
  void OnDataUp(LinkId link);
  void OnDataDown(LinkId link, const absl::Status& status);
  void Lose(const std::string& worker, const absl::Status& status);
  // Heartbeats, silence, links kept too long.
  void OnTick();
  void CloseAll();

  const Peer* Find(const std::string& worker) const;
  std::vector<PeerInfo> Infos() const;
  bool empty_links() const;
  // When OnTick() next has something to do by what is known now, unix ms, at
  // most `limit_ms`; sooner while a peer is being paired.
  int64_t NextTickMs(int64_t limit_ms) const;

 private:
  struct Kept {
    Transport* transport;
    LinkId link;
    int64_t until_ms;
  };

  void DialNext(Peer& peer);
  void Refresh(Peer& peer);
  void Change(Peer& peer, PeerState state, const absl::Status& status);
  void DropOldest();
  static std::string AddressOf(const PeerOffer& offer, TransferMode mode);
  static std::string TokenOf(const PeerOffer& offer, TransferMode mode);
  bool CanReach(const PeerOffer& ours, const PeerOffer& theirs,
                const Transport& transport) const;

  const PeerTableOptions options_;
  std::map<std::string, std::unique_ptr<Peer>> peers_;
  std::vector<Kept> kept_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_PEER_TABLE_H_
