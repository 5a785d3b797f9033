#include "kvtransfer/loopback/loopback_fabric.h"

#include <algorithm>
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
    any = ProgressOperations() || any;
    return ProgressData(events) || any;
  }

  void Close(LinkId id) override {
    const auto found = links_.find(id);
    if (found == links_.end()) return;
    Link& link = found->second;
    if (link.peer != nullptr) link.peer->OnPeerClosed(link.peer_link);
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
    if (mode() == TransferMode::kStream) found->second.peer = nullptr;
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

 private:
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
          any = true;
          break;
        }
      }
    }
    return any;
  }

  bool ProgressOperations() {
    bool any = false;
    const int64_t now = fabric_->clock_->NowMs();
    for (auto& [id, operation] : operations_) {
      if (operation.status.has_value() || operation.due_ms > now) continue;
      any = true;
      if (operation.sink != nullptr) RunRead(operation);
      operation.status = operation.fate.drop
                             ? absl::UnavailableError("loopback read failed")
                             : absl::OkStatus();
    }
    return any;
  }

  void RunRead(Operation& operation) {
    if (operation.fate.drop) return;
    const LoopbackTransport* peer = links_.at(operation.link).peer;
    for (size_t i = 0; i < operation.pieces.size(); ++i) {
      const std::byte* from =
          peer->region_.base + operation.pieces[i].remote_offset;
      std::vector<std::byte> bytes(from, from + operation.pieces[i].size_bytes);
      if (operation.fate.flip_bit && i == 0) fabric_->FlipBit(bytes);
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
  Region region_;
  std::map<LinkId, Link> links_;
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
    if (transport->worker() == worker) transport->DropAll();
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

bool LoopbackFabric::Deliver() {
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
