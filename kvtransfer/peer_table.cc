#include "kvtransfer/peer_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::kvtransfer {
namespace {

// A dead generation's pool stays mapped no longer than this.
constexpr int64_t kKeepMs = 2000;
// Lost or refused peers remembered.
constexpr size_t kMaxIdlePeers = 256;

// Bytes of the region that a manifest's groups occupy.
uint64_t RegionBytes(const LayoutManifest& manifest) {
  uint64_t end = 0;
  for (const ReplicaManifest& replica : manifest.replicas) {
    for (const RankManifest& rank : replica.ranks) {
      for (const GroupManifest& group : rank.groups) {
        end = std::max(end, group.base_address +
                                group.num_blocks * group.block_stride_bytes);
      }
    }
  }
  return end;
}

bool Alive(PeerState state) {
  return state == PeerState::kPairing || state == PeerState::kUp;
}

}  // namespace

const char* PeerStateName(PeerState state) {
  switch (state) {
    case PeerState::kPairing:
      return "pairing";
    case PeerState::kUp:
      return "up";
    case PeerState::kSuspect:
      return "suspect";
    case PeerState::kRefused:
      return "refused";
  }
  return "unknown";
}

const Peer::Link* Peer::ServeLink(TransferMode mode) const {
  for (const Link& link : serve_links) {
    if (link.up && link.transport->mode() == mode) return &link;
  }
  return nullptr;
}

PeerInfo Peer::Info() const {
  PeerInfo info{worker(), generation(), state, "", status};
  if (read_link.has_value() && read_link->up) {
    info.transport = read_link->transport->name();
  }
  return info;
}

std::string PeerTable::AddressOf(const PeerOffer& offer, TransferMode mode) {
  return mode == TransferMode::kPull ? offer.shm_socket : offer.ucx_address;
}

std::string PeerTable::TokenOf(const PeerOffer& offer, TransferMode mode) {
  return mode == TransferMode::kPull ? offer.shm_token : offer.ucx_token;
}

bool PeerTable::CanReach(const PeerOffer& ours, const PeerOffer& theirs,
                         const Transport& transport) const {
  const TransferMode mode = transport.mode();
  const bool offered = std::find(theirs.modes.begin(), theirs.modes.end(),
                                 mode) != theirs.modes.end();
  if (!offered || AddressOf(theirs, mode).empty()) return false;
  // A mapped pool needs one host and one user.
  return mode != TransferMode::kPull ||
         (ours.boot_id == theirs.boot_id && ours.uid == theirs.uid);
}

const Peer* PeerTable::Find(const std::string& worker) const {
  const auto found = peers_.find(worker);
  return found == peers_.end() ? nullptr : found->second.get();
}

std::vector<PeerInfo> PeerTable::Infos() const {
  std::vector<PeerInfo> infos;
  for (const auto& [worker, peer] : peers_) infos.push_back(peer->Info());
  return infos;
}

void PeerTable::Pair(const PeerOffer& ours, const PeerOffer& theirs) {
  const std::string worker = theirs.manifest.worker;
  if (const Peer* old = Find(worker); old != nullptr) {
    if (old->generation() > theirs.manifest.generation) return;
    if (Alive(old->state)) {
      Lose(worker, absl::UnavailableError(
                       absl::StrCat("peer ", worker, " paired again")));
    }
    peers_.erase(worker);
  }
  DropOldest();
  auto owned = std::make_unique<Peer>();
  Peer& peer = *owned;
  peer.ours = ours;
  peer.theirs = theirs;
  peer.offered_us = options_.clock->NowMicros();
  peer.last_heard_ms = options_.clock->NowMs();
  peer.last_sent_ms = peer.last_heard_ms;
  peers_.emplace(worker, std::move(owned));
  for (Transport* transport : options_.transports) {
    const TransferMode mode = transport->mode();
    if (!options_.can_send || AddressOf(ours, mode).empty()) continue;
    const absl::StatusOr<LinkId> link =
        transport->Connect({.peer = worker,
                            .dial = false,
                            .own_token = TokenOf(ours, mode),
                            .peer_token = TokenOf(theirs, mode)});
    if (link.ok()) peer.serve_links.push_back({transport, *link, false});
  }
  for (const TransferMode mode :
       {TransferMode::kPull, TransferMode::kStream, TransferMode::kPut}) {
    peer.must_read = peer.must_read ||
                     (options_.can_receive && !AddressOf(theirs, mode).empty());
  }
  Change(peer, PeerState::kPairing, absl::OkStatus());
  if (peer.must_read) DialNext(peer);
}

// Tries the transports in order; refuses the peer when none is left.
void PeerTable::DialNext(Peer& peer) {
  peer.read_link.reset();
  while (peer.next_dial < options_.transports.size()) {
    Transport* transport = options_.transports[peer.next_dial++];
    if (!CanReach(peer.ours, peer.theirs, *transport)) continue;
    const TransferMode mode = transport->mode();
    const absl::StatusOr<LinkId> link = transport->Connect(
        {.peer = peer.worker(),
         .dial = true,
         .address = AddressOf(peer.theirs, mode),
         .own_token = TokenOf(peer.ours, mode),
         .peer_token = TokenOf(peer.theirs, mode),
         .peer_region_bytes = RegionBytes(peer.theirs.manifest)});
    if (link.ok()) {
      peer.read_link = Peer::Link{transport, *link, false};
      return;
    }
    peer.status = link.status();
  }
  for (const Peer::Link& link : peer.serve_links) {
    link.transport->Close(link.id);
  }
  peer.serve_links.clear();
  Change(
      peer, PeerState::kRefused,
      absl::FailedPreconditionError(absl::StrCat(
          "no transport to peer ", peer.worker(), peer.status.ok() ? "" : ": ",
          std::string(peer.status.message()))));
}

void PeerTable::Refresh(Peer& peer) {
  if (peer.state != PeerState::kPairing || !peer.control_up) return;
  const bool serving =
      std::any_of(peer.serve_links.begin(), peer.serve_links.end(),
                  [](const Peer::Link& l) { return l.up; });
  const bool reading = peer.read_link.has_value() && peer.read_link->up;
  if (peer.must_read ? !reading : !serving) return;
  Change(peer, PeerState::kUp, absl::OkStatus());
  options_.on_up(peer);
}

void PeerTable::Change(Peer& peer, PeerState state,
                       const absl::Status& status) {
  peer.state = state;
  peer.status = status;
  if (options_.on_change) options_.on_change(peer.Info());
}

void PeerTable::OnControlUp(const std::string& worker) {
  const auto found = peers_.find(worker);
  if (found == peers_.end() || !Alive(found->second->state)) return;
  found->second->control_up = true;
  found->second->last_heard_ms = options_.clock->NowMs();
  Refresh(*found->second);
}

void PeerTable::OnControlDown(const std::string& worker,
                              const absl::Status& status) {
  const Peer* peer = Find(worker);
  if (peer == nullptr || !peer->control_up) return;
  Lose(worker, absl::UnavailableError(absl::StrCat(
                   "link to peer ", worker, " ended: ", status.message())));
}

void PeerTable::OnHeard(const std::string& worker) {
  const auto found = peers_.find(worker);
  if (found == peers_.end()) return;
  found->second->last_heard_ms = options_.clock->NowMs();
}

void PeerTable::OnDataUp(LinkId id) {
  for (auto& [worker, peer] : peers_) {
    if (peer->read_link.has_value() && peer->read_link->id == id) {
      peer->read_link->up = true;
      Change(*peer, peer->state, peer->status);
      Refresh(*peer);
      return;
    }
    for (Peer::Link& link : peer->serve_links) {
      if (link.id != id) continue;
      link.up = true;
      Refresh(*peer);
      return;
    }
  }
}

void PeerTable::OnDataDown(LinkId id, const absl::Status& status) {
  for (auto& [worker, peer] : peers_) {
    if (peer->read_link.has_value() && peer->read_link->id == id) {
      if (peer->read_link->up) {
        Lose(std::string(worker), status);
        return;
      }
      peer->read_link->transport->Close(id);
      peer->status = status;
      DialNext(*peer);
      return;
    }
    for (size_t i = 0; i < peer->serve_links.size(); ++i) {
      Peer::Link& link = peer->serve_links[i];
      if (link.id != id) continue;
      if (link.up) {
        Lose(std::string(worker), status);
        return;
      }
      link.transport->Close(id);
      peer->serve_links.erase(peer->serve_links.begin() +
                              static_cast<std::ptrdiff_t>(i));
      return;
    }
  }
}

void PeerTable::Lose(const std::string& worker, const absl::Status& status) {
  const auto found = peers_.find(worker);
  if (found == peers_.end() || !Alive(found->second->state)) return;
  Peer& peer = *found->second;
  const bool keep = options_.on_lost(peer, status);
  peer.control_up = false;
  for (const Peer::Link& link : peer.serve_links) {
    link.transport->Close(link.id);
  }
  peer.serve_links.clear();
  if (peer.read_link.has_value()) {
    const Peer::Link link = *peer.read_link;
    peer.read_link.reset();
    if (keep) {
      kept_.push_back(
          {link.transport, link.id, options_.clock->NowMs() + kKeepMs});
    } else {
      link.transport->Close(link.id);
    }
  }
  Change(peer, PeerState::kSuspect, status);
}

void PeerTable::OnTick() {
  const int64_t now = options_.clock->NowMs();
  std::vector<std::string> silent;
  for (auto& [worker, peer] : peers_) {
    if (!Alive(peer->state)) continue;
    if (now - peer->last_heard_ms >= options_.lost_ms) {
      silent.push_back(worker);
    } else if (peer->control_up &&
               now - peer->last_sent_ms >= options_.heartbeat_ms) {
      peer->last_sent_ms = now;
      options_.beat(*peer);
    }
  }
  for (const std::string& worker : silent) {
    Lose(worker,
         absl::UnavailableError(absl::StrCat(
             "peer ", worker, " was silent for ", options_.lost_ms, " ms")));
  }
  for (size_t i = 0; i < kept_.size();) {
    if (now < kept_[i].until_ms) {
      ++i;
      continue;
    }
    const Kept kept = kept_[i];
    kept_[i] = kept_.back();
    kept_.pop_back();
    options_.on_expired(kept.link);
    kept.transport->Close(kept.link);
  }
}

int64_t PeerTable::NextTickMs(int64_t limit_ms) const {
  constexpr int64_t kPairingMs = 100;  // handshakes have deadlines of seconds
  const int64_t now = options_.clock->NowMs();
  int64_t next = limit_ms;
  if (!kept_.empty()) next = std::min(next, now + kPairingMs);
  for (const auto& [worker, peer] : peers_) {
    if (!Alive(peer->state)) continue;
    next = std::min(next, peer->last_heard_ms + options_.lost_ms);
    next = std::min(next, peer->state == PeerState::kUp
                              ? peer->last_sent_ms + options_.heartbeat_ms
                              : now + kPairingMs);
  }
  return next;
}

void PeerTable::CloseAll() {
  for (const Kept& kept : kept_) kept.transport->Close(kept.link);
  kept_.clear();
  for (auto& [worker, peer] : peers_) {
    for (const Peer::Link& link : peer->serve_links) {
      link.transport->Close(link.id);
    }
    peer->serve_links.clear();
    if (peer->read_link.has_value()) {
      peer->read_link->transport->Close(peer->read_link->id);
    }
    peer->read_link.reset();
  }
  peers_.clear();
}

void PeerTable::DropOldest() {
  const auto idle = [](const auto& entry) {
    return !Alive(entry.second->state);
  };
  if (std::count_if(peers_.begin(), peers_.end(), idle) <
      static_cast<std::ptrdiff_t>(kMaxIdlePeers)) {
    return;
  }
  auto oldest = peers_.end();
  for (auto it = peers_.begin(); it != peers_.end(); ++it) {
    if (!idle(*it)) continue;
    if (oldest == peers_.end() ||
        it->second->last_heard_ms < oldest->second->last_heard_ms) {
      oldest = it;
    }
  }
  peers_.erase(oldest);
}

}  // namespace sluice::kvtransfer
