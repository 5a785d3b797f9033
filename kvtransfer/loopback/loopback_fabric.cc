#include "kvtransfer/loopback/loopback_fabric.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {

class LoopbackFabric::Control : public ControlLink {
 public:
  Control(LoopbackFabric* fabric, std::string worker)
      : fabric_(fabric), worker_(std::move(worker)) {}
  void Send(const std::string& peer, const ControlMessage& message) override {
    fabric_->SendControl(worker_, peer, message);
  }

 private:
  LoopbackFabric* const fabric_;
  const std::string worker_;
};

// The data end of one worker; see Transport.
class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(LoopbackFabric* fabric, std::string worker,
                    TransferMode mode)
      : Transport("loopback", mode),
        fabric_(fabric),
        worker_(std::move(worker)) {
    address_ = worker_;
    fabric_->transports_.push_back(this);
  }

  ~LoopbackTransport() override {
    SLUICE_CHECK(operations_.empty());
    // The end of the process: its memory is gone, it writes no more.
    fabric_->DropPuts([this](const auto& put) { return put.target == this; });
    fabric_->dead_.insert(incarnation_);
    auto& all = fabric_->transports_;
    all.erase(std::find(all.begin(), all.end(), this));
  }

  absl::Status Register(const Region& region) override {
    region_ = region;
    return absl::OkStatus();
  }

  absl::StatusOr<LinkId> Connect(const LinkArgs& args) override {
    const LinkId id = NewId();
    links_.emplace(id, Link{args, 0, nullptr, false});
    return id;
  }

  absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) override {
    const auto found = links_.find(link);
    if (found == links_.end() || found->second.peer_link == 0) {
      return absl::UnavailableError("loopback link is down");
    }
    const LoopbackFate fate =
        fabric_->Decide(worker_, found->second.args.peer, "data");
    if (fate.flip_bit) fabric_->FlipBit(payload);
    const int64_t due_ms = fabric_->clock_->NowMs() + fate.delay_ms;
    for (int i = 0; i < (fate.drop ? 0 : fate.duplicate ? 2 : 1); ++i) {
      fabric_->data_.push_back(
          {due_ms, found->second.peer_link, header, payload});
    }
    const OperationId id = NewId();
    operations_.emplace(id, Operation{link, {}, nullptr, due_ms, {}});
    return id;
  }

  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override {
    const auto found = links_.find(link);
    if (found == links_.end() || found->second.peer == nullptr) {
      return absl::UnavailableError("loopback link is down");
    }
    const uint64_t limit = found->second.peer->region_.size_bytes;
    for (const ReadPiece& piece : pieces) {
      if (piece.remote_offset > limit ||
          piece.size_bytes > limit - piece.remote_offset) {
        return absl::InvalidArgumentError("read outside the peer's region");
      }
    }
    const LoopbackFate fate =
        fabric_->Decide(worker_, found->second.args.peer, "read");
    Operation operation{link, std::move(pieces), sink,
                        fabric_->clock_->NowMs() + fate.delay_ms, fate};
    const OperationId id = NewId();
    operations_.emplace(id, std::move(operation));
    return id;
  }

  absl::StatusOr<OperationId> StartPut(LinkId link,
                                       std::vector<PutPiece> pieces) override {
    SLUICE_CHECK(mode() == TransferMode::kPut);
    const auto found = links_.find(link);
    if (found == links_.end() || found->second.peer_link == 0) {
      return absl::UnavailableError("loopback link is down");
    }
    const Link& to = found->second;
    const uint64_t limit = to.peer->region_.size_bytes;
    for (const PutPiece& piece : pieces) {
      if (piece.remote_offset > limit ||
          piece.size_bytes > limit - piece.remote_offset) {
        return absl::InvalidArgumentError("put outside the peer's region");
      }
    }
    const LoopbackFate fate = fabric_->Decide(worker_, to.args.peer, "put");
    const OperationId id = NewId();
    fabric_->PostPut(id, to.peer_link, to.peer, pieces, fate);
    operations_.emplace(
        id,
        Operation{
            link, {}, nullptr, fabric_->clock_->NowMs() + fate.delay_ms, fate});
    return id;
  }

  void Deregister() override {
    if (fabric_->fence_ == PutFence::kDeath) return;
    fabric_->DropPuts([this](const auto& put) { return put.target == this; });
    for (Closing& closing : closing_) closing.deregistered = true;
  }

  std::optional<absl::Status> Poll(OperationId id) override {
    const auto found = operations_.find(id);
    SLUICE_CHECK(found != operations_.end());
    if (!found->second.status.has_value()) return std::nullopt;
    absl::Status status = *found->second.status;
    operations_.erase(found);
    return status;
  }

  bool Progress(TransportEvents& events, bool may_sleep) override {
    bool any = MatchDialled();
    for (auto& [id, link] : links_) {
      if (link.event == 0) continue;
      any = true;
      if (std::exchange(link.event, 0) > 0) {
        events.OnLinkUp(id);
      } else {
        events.OnLinkDown(id, absl::UnavailableError("loopback peer is gone"));
      }
    }
    any = ReportFences(events) || any;
    any = ProgressOperations() || any;
    return ProgressData(events) || any;
  }

  void Close(LinkId id) override {
    const auto found = links_.find(id);
    if (found == links_.end()) return;
    Link& link = found->second;
    if (link.peer != nullptr) link.peer->OnPeerClosed(link.peer_link);
    if (mode() == TransferMode::kPut) {
      closing_.push_back({id, fabric_->clock_->NowMs() + fabric_->close_ms_});
    }
    links_.erase(found);
    for (auto& [operation_id, operation] : operations_) {
      if (operation.link == id && !operation.status.has_value()) {
        operation.status = absl::UnavailableError("loopback link closed");
      }
    }
  }

  void OnPeerClosed(LinkId id) {
    const auto found = links_.find(id);
    if (found == links_.end()) return;
    found->second.peer_link = 0;
    if (mode() != TransferMode::kPull) found->second.peer = nullptr;
    found->second.event = -1;
  }

  void DropAll() {
    std::vector<LinkId> ids;
    for (const auto& [id, link] : links_) ids.push_back(id);
    for (const LinkId id : ids) {
      Link& link = links_.at(id);
      if (link.peer != nullptr) link.peer->OnPeerClosed(link.peer_link);
    }
  }

  const std::string& worker() const { return worker_; }
  uint64_t incarnation() const { return incarnation_; }
  bool Closed(LinkId link) const { return !links_.contains(link); }
  std::byte* At(uint64_t offset) const { return region_.base + offset; }

 private:
  struct Closing {
    LinkId link;
    int64_t done_ms;
    bool deregistered = false;
  };
  struct Link {
    LinkArgs args;
    LinkId peer_link = 0;
    LoopbackTransport* peer = nullptr;  // its region stays readable
    bool matched = false;
    int event = 0;  // 1: up, -1: down
  };
  struct Operation {
    LinkId link;
    std::vector<ReadPiece> pieces;
    ReadSink* sink;
    int64_t due_ms;
    LoopbackFate fate;
    std::optional<absl::Status> status = std::nullopt;
  };

  bool MatchDialled() {
    bool any = false;
    for (auto& [id, link] : links_) {
      if (!link.args.dial || link.matched) continue;
      for (LoopbackTransport* other : fabric_->transports_) {
        if (other->mode() != mode() || other->worker_ != link.args.address) {
          continue;
        }
        for (auto& [other_id, expected] : other->links_) {
          if (expected.args.dial || expected.matched ||
              expected.args.own_token != link.args.peer_token ||
              expected.args.peer_token != link.args.own_token) {
            continue;
          }
          link.matched = expected.matched = true;
          link.peer = other;
          link.peer_link = other_id;
          expected.peer = this;
          expected.peer_link = id;
          link.event = expected.event = 1;
          fabric_->writer_[id] = other->incarnation_;
          fabric_->writer_[other_id] = incarnation_;
          any = true;
          break;
        }
      }
    }
    return any;
  }

  // Which closed links nothing lands through any more.
  bool ReportFences(TransportEvents& events) {
    std::vector<std::pair<LinkId, Fence>> fenced;
    for (Closing& closing : closing_) {
      const bool by_close = fabric_->fence_ == PutFence::kClose &&
                            closing.done_ms <= fabric_->clock_->NowMs();
      const bool by_death =
          fabric_->fence_ == PutFence::kDeath &&
          fabric_->dead_.contains(fabric_->writer_[closing.link]);
      if (by_close || by_death || closing.deregistered) {
        fenced.emplace_back(closing.link, by_close   ? Fence::kClose
                                          : by_death ? Fence::kDeath
                                                     : Fence::kDeregistered);
      }
    }
    for (const auto& fence : fenced) {
      const LinkId link = fence.first;
      fabric_->DropPuts(
          [link](const auto& put) { return put.to_link == link; });
      std::erase_if(closing_,
                    [link](const Closing& c) { return c.link == link; });
      events.OnFenced(link, fence.second);
    }
    return !fenced.empty();
  }

  bool ProgressOperations() {
    bool any = false;
    fabric_->LandPuts();
    const int64_t now = fabric_->clock_->NowMs();
    for (auto& [id, operation] : operations_) {
      if (operation.status.has_value() || operation.due_ms > now) continue;
      any = true;
      if (operation.sink != nullptr) RunRead(operation);
      const bool lost = fabric_->lost_puts_.erase(id) > 0;
      const bool failed =
          lost || operation.fate.drop || operation.fate.late_ms > 0;
      operation.status =
          failed ? absl::UnavailableError("loopback operation failed")
                 : absl::OkStatus();
    }
    return any;
  }

  void RunRead(Operation& operation) {
    if (operation.fate.drop) return;
    const LoopbackTransport* peer = links_.at(operation.link).peer;
    const size_t flipped = operation.fate.flip_bit && !operation.pieces.empty()
                               ? fabric_->random_() % operation.pieces.size()
                               : SIZE_MAX;
    for (size_t i = 0; i < operation.pieces.size(); ++i) {
      const std::byte* from =
          peer->region_.base + operation.pieces[i].remote_offset;
      std::vector<std::byte> bytes(from, from + operation.pieces[i].size_bytes);
      if (i == flipped) fabric_->FlipBit(bytes);
      operation.sink->OnPiece(i, bytes, nullptr);
    }
  }

  bool ProgressData(TransportEvents& events) {
    std::vector<LoopbackFabric::DataFlight> due;
    const int64_t now = fabric_->clock_->NowMs();
    auto& flights = fabric_->data_;
    for (auto it = flights.begin(); it != flights.end();) {
      if (it->due_ms > now || !links_.contains(it->to_link)) {
        ++it;
        continue;
      }
      due.push_back(std::move(*it));
      it = flights.erase(it);
    }
    for (const auto& flight : due) {
      events.OnData(flight.to_link, flight.header, flight.payload);
    }
    return !due.empty();
  }

  LoopbackFabric* const fabric_;
  const std::string worker_;
  const uint64_t incarnation_ = NewId();
  Region region_;
  std::map<LinkId, Link> links_;
  std::vector<Closing> closing_;  // put
  std::map<OperationId, Operation> operations_;
};

LoopbackFabric::LoopbackFabric(const Clock* clock, uint64_t seed)
    : clock_(clock), random_(seed) {}

LoopbackFabric::~LoopbackFabric() = default;

std::unique_ptr<Transport> LoopbackFabric::MakeTransport(
    const std::string& worker, TransferMode mode) {
  return std::make_unique<LoopbackTransport>(this, worker, mode);
}

ControlLink* LoopbackFabric::MakeControl(const std::string& worker) {
  std::unique_ptr<Control>& control = controls_[worker];
  if (control == nullptr) control = std::make_unique<Control>(this, worker);
  return control.get();
}

void LoopbackFabric::Attach(const std::string& worker, TransferEngine* engine) {
  engines_[worker] = engine;
}

absl::Status LoopbackFabric::Pair(const std::string& dialler,
                                  const std::string& answerer) {
  TransferEngine& d = *engines_.at(dialler);
  TransferEngine& a = *engines_.at(answerer);
  const PeerOffer dialled = d.PrepareOffer();
  RETURN_IF_ERROR(a.CheckOffer(dialled, 0));
  const PeerOffer answer = a.PrepareOffer();
  a.Pair(answer, dialled);
  RETURN_IF_ERROR(d.CheckOffer(answer, 0));
  d.Pair(dialled, answer);
  d.OnLinkUp(answerer);
  a.OnLinkUp(dialler);
  return absl::OkStatus();
}

void LoopbackFabric::Kill(const std::string& worker) {
  engines_.erase(worker);
  std::erase_if(control_, [&](const ControlFlight& flight) {
    return flight.from == worker || flight.to == worker;
  });
  for (LoopbackTransport* transport : transports_) {
    if (transport->worker() != worker) continue;
    dead_.insert(transport->incarnation());
    transport->DropAll();
    DropPuts([&](const PutFlight& put) { return put.target == transport; });
    // Who writes by mapping memory stops with the process.
    if (fence_ != PutFence::kDeath) continue;
    DropPuts([&](const PutFlight& put) {
      return writer_[put.to_link] == transport->incarnation();
    });
  }
  for (auto& [name, engine] : engines_) {
    engine->OnLinkDown(worker, absl::UnavailableError("killed"));
  }
}

LoopbackFate LoopbackFabric::Decide(const std::string& from,
                                    const std::string& to,
                                    const std::string& kind) {
  const LoopbackEvent event{next_event_++, from, to, kind};
  return judge_ ? judge_(event) : LoopbackFate{};
}

void LoopbackFabric::SendControl(const std::string& from, const std::string& to,
                                 const ControlMessage& message) {
  // Heartbeats depend on the time a test takes: they are no events.
  LoopbackFate fate;
  if (!std::holds_alternative<Heartbeat>(message.body)) {
    fate = Decide(from, to, KindName(message.body));
  }
  NoteSlots(from, message);
  const int64_t due_ms = clock_->NowMs() + fate.delay_ms;
  for (int i = 0; i < (fate.drop ? 0 : fate.duplicate ? 2 : 1); ++i) {
    control_.push_back({due_ms, from, to, message});
  }
}

void LoopbackFabric::FlipBit(std::vector<std::byte>& bytes) {
  if (bytes.empty()) return;
  const uint64_t bit = random_() % (bytes.size() * 8);
  bytes[bit / 8] ^= std::byte{1} << (bit % 8);
}

// A slot belongs to the transfer of the last Grant that offered it.
void LoopbackFabric::NoteSlots(const std::string& from,
                               const ControlMessage& message) {
  const auto* grant = std::get_if<Grant>(&message.body);
  if (grant == nullptr) return;
  for (const StagingSlot& slot : grant->slots) {
    uint64_t owner = 0;
    std::memcpy(&owner, message.transfer_id.bytes.data(), sizeof(owner));
    slots_[{from, slot.offset}] = {slot.size_bytes, owner};
  }
}

std::vector<uint64_t> LoopbackFabric::OwnersOf(const std::string& worker,
                                               uint64_t offset,
                                               uint64_t size) const {
  std::vector<uint64_t> owners;
  for (const uint64_t at : {offset, offset + size - 1}) {
    auto slot = slots_.upper_bound({worker, at});
    if (slot != slots_.begin()) --slot;
    if (slot != slots_.end() && slot->first.first == worker &&
        at - slot->first.second < slot->second.size_bytes) {
      owners.push_back(slot->second.owner);
    } else {
      owners.push_back(owner_ ? owner_(worker, at) : 0);
    }
  }
  return owners;
}

void LoopbackFabric::PostPut(OperationId operation, LinkId to_link,
                             LoopbackTransport* target,
                             const std::vector<PutPiece>& pieces,
                             const LoopbackFate& fate) {
  if (fate.drop) return;
  const int64_t now = clock_->NowMs();
  const size_t flipped = fate.flip_bit ? random_() % pieces.size() : SIZE_MAX;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const PutPiece& piece = pieces[i];
    if (piece.size_bytes == 0) continue;
    std::vector<std::byte> bytes(piece.from, piece.from + piece.size_bytes);
    if (i == flipped) FlipBit(bytes);
    const auto fly = [&](uint64_t from, uint64_t to, int64_t due_ms) {
      if (from == to) return;
      puts_.push_back(
          {due_ms, operation, to_link, target, piece.remote_offset + from,
           std::vector<std::byte>(bytes.begin() + static_cast<int64_t>(from),
                                  bytes.begin() + static_cast<int64_t>(to)),
           OwnersOf(target->worker(), piece.remote_offset + from, to - from)});
    };
    const int64_t due_ms = now + fate.delay_ms + fate.late_ms;
    const uint64_t cut = fate.tear ? random_() % piece.size_bytes : 0;
    fly(0, cut, now);
    fly(cut, bytes.size(), due_ms);
    if (fate.duplicate) fly(0, bytes.size(), due_ms);
  }
}

void LoopbackFabric::LandPuts() {
  const int64_t now = clock_->NowMs();
  std::vector<PutFlight> due;
  for (auto it = puts_.begin(); it != puts_.end();) {
    if (it->due_ms > now) {
      ++it;
      continue;
    }
    due.push_back(std::move(*it));
    it = puts_.erase(it);
  }
  for (const PutFlight& flight : due) Land(flight);
}

void LoopbackFabric::Land(const PutFlight& flight) {
  const LoopbackTransport& target = *flight.target;
  if (target.Closed(flight.to_link)) ++late_puts_;
  if (OwnersOf(target.worker(), flight.remote_offset, flight.bytes.size()) !=
      flight.owners) {
    ++stray_puts_;
  }
  std::memcpy(target.At(flight.remote_offset), flight.bytes.data(),
              flight.bytes.size());
}

void LoopbackFabric::DropPuts(
    const std::function<bool(const PutFlight&)>& which) {
  for (auto it = puts_.begin(); it != puts_.end();) {
    if (!which(*it)) {
      ++it;
      continue;
    }
    ++fenced_puts_;
    lost_puts_.insert(it->operation);
    it = puts_.erase(it);
  }
}

bool LoopbackFabric::Deliver() {
  LandPuts();
  std::vector<ControlFlight> due;
  for (auto it = control_.begin(); it != control_.end();) {
    if (it->due_ms > clock_->NowMs()) {
      ++it;
      continue;
    }
    due.push_back(std::move(*it));
    it = control_.erase(it);
  }
  for (ControlFlight& flight : due) {
    const auto engine = engines_.find(flight.to);
    if (engine == engines_.end() || !engines_.contains(flight.from)) continue;
    engine->second->OnMessage(flight.from, std::move(flight.message));
  }
  return !due.empty();
}

}  // namespace sluice::kvtransfer
