#include "kvtransfer/engine_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {
namespace {

// While a transfer is under way deadlines are looked at this often.
constexpr int64_t kActiveSleepUs = 5'000;
// Nothing under way: until the next heartbeat is due. With timers of ended
// transfers, whose records answer repeats, sooner.
constexpr int64_t kIdleSleepUs = 1'000'000;
constexpr int64_t kLingeringSleepUs = 50'000;
constexpr size_t kMaxUnproven = 65'536;
// After deregistration, for adapters to say so.
constexpr int64_t kDeregisterMs = 1000;

// Which half of a transfer a message is for.
bool IsForDestination(const ControlBody& body) {
  return std::holds_alternative<Claim>(body) ||
         std::holds_alternative<RectangleDone>(body) ||
         std::holds_alternative<Stopped>(body) ||
         std::holds_alternative<Abort>(body) ||
         std::holds_alternative<Attachment>(body);
}

}  // namespace

TransferEngine::Core::Core(EngineOptions o)
    : options(std::move(o)),
      inbox([this] {
        MutexLock lock(wake_mu);
        if (wake) wake();
      }),
      staging_(options.staging, options.region.key),
      quarantine_(&context_) {
  context_.clock = options.clock;
  context_.manifest = &options.manifest;
  context_.regions = &regions_;
  context_.region_key = options.region.key;
  context_.append_digests = options.append_digests;
  context_.quarantine = &quarantine_;
  context_.staging = &staging_;
  context_.stats = &stats_;
  context_.observer = options.observer;
  context_.limits = {.resend_ms = options.resend_ms,
                     .drain_timeout_ms = options.drain_timeout_ms,
                     .stop_timeout_ms = options.stop_timeout_ms,
                     .stream_window_bytes = options.stream_window_bytes,
                     .stream_message_bytes = options.stream_message_bytes,
                     .digests = options.digests};
  context_.send = [this](const std::string& worker, const TransferId& id,
                         ControlBody body) {
    Send(worker, id, std::move(body));
  };
  // Later: the caller is in the middle of a transfer's event.
  context_.lose_peer = [this](const std::string& worker,
                              const absl::Status& why) {
    lost_.emplace_back(worker, why);
  };
  peers = std::make_unique<PeerTable>(MakePeerOptions());
}

TransferEngine::Core::~Core() {
  SLUICE_CHECK(active_destinations_.empty() && active_sources_.empty());
  peers->CloseAll();
}

PeerTableOptions TransferEngine::Core::MakePeerOptions() {
  PeerTableOptions result;
  result.clock = options.clock;
  for (const auto& transport : options.transports) {
    result.transports.push_back(transport.get());
  }
  result.can_send = options.can_send;
  result.can_receive = options.can_receive;
  result.heartbeat_ms = options.heartbeat_ms;
  result.lost_ms = options.peer_lost_ms;
  result.beat = [this](const Peer& peer) {
    Send(peer.worker(), TransferId{}, Heartbeat{});
  };
  result.on_up = [this](const Peer& peer) {
    quarantine_.OnPeerUp(peer.worker(), peer.generation());
    if (options.observer == nullptr) return;
    options.observer->OnPaired(options.clock->NowMicros() - peer.offered_us);
  };
  result.on_lost = [this](const Peer& peer, const absl::Status& why) {
    return OnPeerLost(peer, why);
  };
  result.on_expired = [this](LinkId link) {
    for (DestinationTransfer* transfer : active_destinations_) {
      if (!transfer->reads_link(link)) continue;
      transfer->OnPeerLost(
          absl::UnavailableError("the source died; its memory is unmapped"),
          false);
    }
  };
  result.on_change = [this](const PeerInfo& info) {
    peers_dirty_ = true;
    if (options.on_peer) options.on_peer(info);
  };
  return result;
}

absl::Status TransferEngine::Core::Start() {
  RETURN_IF_ERROR(regions_.Register(options.region));
  for (const auto& transport : options.transports) {
    RETURN_IF_ERROR(transport->Register(options.region));
  }
  return absl::OkStatus();
}

// --- commands ---------------------------------------------------------------

void TransferEngine::Core::StartReceive(const Ticket& ticket,
                                        ReceiveArgs args) {
  auto transfer =
      std::make_unique<DestinationTransfer>(&context_, ticket, std::move(args));
  active_destinations_.push_back(transfer.get());
  if (shutting_down.load()) {
    transfer->OnCancel(absl::UnavailableError("draining"));
  }
  destinations_[ticket.transfer_id] = std::move(transfer);
}

void TransferEngine::Core::StartSend(SendArgs args) {
  const TransferId id = args.ticket.transfer_id;
  if (sources_.contains(id)) {
    TransferResult result;
    result.status = absl::AlreadyExistsError(
        absl::StrCat("transfer ", ToHex(id), " is already being sent"));
    if (args.on_ended) args.on_ended(id, result);
    return;
  }
  auto transfer = std::make_unique<SourceTransfer>(&context_, std::move(args));
  active_sources_.push_back(transfer.get());
  waiting_sources_.push_back({id, options.clock->NowMs()});
  if (shutting_down.load()) {
    transfer->OnCancel(absl::UnavailableError("draining"));
  }
  sources_[id] = std::move(transfer);
  BindSources(options.clock->NowMs());
}

void TransferEngine::Core::CountRefusal(const std::string& reason) {
  ++stats_.pair_refusals[reason];
  dirty_ = true;
}

DestinationTransfer* TransferEngine::Core::FindDestination(
    const TransferId& id) {
  const auto found = destinations_.find(id);
  return found == destinations_.end() ? nullptr : found->second.get();
}

SourceTransfer* TransferEngine::Core::FindSource(const TransferId& id) {
  const auto found = sources_.find(id);
  return found == sources_.end() ? nullptr : found->second.get();
}

void TransferEngine::Core::Offer(const RectangleOffer& offer) {
  if (SourceTransfer* s = FindSource(offer.transfer_id)) s->OnOffer(offer);
}

void TransferEngine::Core::SendAttachment(const TransferId& id,
                                          std::string bytes) {
  SourceTransfer* transfer = FindSource(id);
  if (transfer == nullptr) return;
  transfer->OnAttachment(std::move(bytes));
  if (transfer->lingers()) lingering_.push_back(id);
}

void TransferEngine::Core::Cancel(const TransferId& id,
                                  const absl::Status& cause) {
  if (DestinationTransfer* d = FindDestination(id)) d->OnCancel(cause);
  if (SourceTransfer* s = FindSource(id)) s->OnCancel(cause);
}

void TransferEngine::Core::Shutdown() {
  if (!shutting_down.exchange(true)) shutdown_ms_ = options.clock->NowMs();
  const absl::Status cause = absl::UnavailableError("draining");
  for (DestinationTransfer* d : active_destinations_) d->OnCancel(cause);
  for (SourceTransfer* s : active_sources_) s->OnCancel(cause);
}

// --- messages ---------------------------------------------------------------

void TransferEngine::Core::Send(const std::string& worker, const TransferId& id,
                                ControlBody body) {
  const Peer* peer = peers->Find(worker);
  if (peer == nullptr || !peer->control_up) return;
  ControlMessage message;
  message.transfer_id = id;
  message.from_generation = options.manifest.generation;
  message.to_generation = peer->generation();
  message.body = std::move(body);
  options.control->Send(worker, message);
}

bool TransferEngine::Core::IsStale(const Peer& peer,
                                   const ControlMessage& message) {
  return message.from_generation != peer.generation() ||
         message.to_generation != options.manifest.generation;
}

// Never answers an answer: two sides that disagree would go on for ever.
void TransferEngine::Core::AnswerStale(const Peer& peer,
                                       const ControlMessage& message) {
  ++stats_.stale_messages[KindName(message.body)];
  const bool ours = message.to_generation != options.manifest.generation;
  const std::string text = absl::StrCat(
      "stale generation ",
      ours ? message.to_generation : message.from_generation, ", current ",
      ours ? options.manifest.generation : peer.generation());
  ControlMessage answer;
  answer.transfer_id = message.transfer_id;
  answer.from_generation = options.manifest.generation;
  answer.to_generation = message.from_generation;
  if (std::holds_alternative<Claim>(message.body) ||
      std::holds_alternative<RectangleDone>(message.body) ||
      std::holds_alternative<Attachment>(message.body)) {
    answer.body = Refuse{.code = absl::StatusCode::kAborted, .detail = text};
  } else if (std::holds_alternative<Grant>(message.body) ||
             std::holds_alternative<Stop>(message.body) ||
             std::holds_alternative<Ack>(message.body)) {
    answer.body = Abort{.code = absl::StatusCode::kAborted, .detail = text};
  } else {
    return;
  }
  options.control->Send(peer.worker(), answer);
}

void TransferEngine::Core::OnMessage(const std::string& worker,
                                     const ControlMessage& message) {
  dirty_ = true;
  const Peer* peer = peers->Find(worker);
  if (peer == nullptr || !peer->control_up) {
    ++stats_.late_messages[KindName(message.body)];
    return;
  }
  if (IsStale(*peer, message)) {
    AnswerStale(*peer, message);
    return;
  }
  peers->OnHeard(worker);
  if (std::holds_alternative<Heartbeat>(message.body)) return;
  if (IsForDestination(message.body)) {
    ToDestination(*peer, message);
  } else {
    ToSource(*peer, message);
  }
}

void TransferEngine::Core::AnswerUnknown(const std::string& worker,
                                         const ControlMessage& message) {
  ++stats_.late_messages[KindName(message.body)];
  if (std::holds_alternative<Claim>(message.body) ||
      std::holds_alternative<RectangleDone>(message.body)) {
    Send(worker, message.transfer_id,
         Refuse{.code = absl::StatusCode::kNotFound,
                .detail = "unknown transfer"});
  } else if (std::holds_alternative<Stop>(message.body)) {
    // We never write without a grant, and the destination grants no more.
    if (unproven_overflow_ || unproven_.contains(message.transfer_id)) {
      Send(worker, message.transfer_id,
           Abort{.code = absl::StatusCode::kUnavailable,
                 .detail = "a put had no final flush"});
    } else {
      Send(worker, message.transfer_id, Stopped{});
    }
  }
}

void TransferEngine::Core::OnClaim(DestinationTransfer& transfer,
                                   const Peer& peer, const Claim& claim) {
  DestinationTransfer::Claimant claimant{.worker = peer.worker(),
                                         .manifest = &peer.theirs.manifest};
  if (peer.state == PeerState::kUp && peer.read_link.has_value()) {
    claimant.link = {peer.read_link->transport, peer.read_link->id};
  } else if (transfer.state() == DestinationTransfer::State::kTicketed) {
    return;  // the data link is not proven yet; the claim comes again
  }
  transfer.OnClaim(claim, claimant);
}

void TransferEngine::Core::ToDestination(const Peer& peer,
                                         const ControlMessage& message) {
  const std::string& worker = peer.worker();
  if (std::holds_alternative<Stopped>(message.body)) {
    quarantine_.OnStopped(message.transfer_id, worker, peer.generation());
  } else if (const auto* abort = std::get_if<Abort>(&message.body)) {
    if (abort->stopped) {
      quarantine_.OnStopped(message.transfer_id, worker, peer.generation());
    } else {
      quarantine_.OnUnproven(message.transfer_id, worker, peer.generation());
    }
  }
  DestinationTransfer* transfer = FindDestination(message.transfer_id);
  if (transfer == nullptr) {
    AnswerUnknown(worker, message);
  } else if (const auto* claim = std::get_if<Claim>(&message.body)) {
    OnClaim(*transfer, peer, *claim);
  } else if (const auto* done = std::get_if<RectangleDone>(&message.body)) {
    transfer->OnRectangleDone(worker, *done);
  } else if (std::holds_alternative<Stopped>(message.body)) {
    transfer->OnStopped(worker);
  } else if (const auto* abort = std::get_if<Abort>(&message.body)) {
    transfer->OnAbort(worker, *abort);
  } else if (const auto* first = std::get_if<Attachment>(&message.body)) {
    transfer->OnAttachment(worker, *first);
  }
}

void TransferEngine::Core::ToSource(const Peer& peer,
                                    const ControlMessage& message) {
  SourceTransfer* transfer = FindSource(message.transfer_id);
  if (transfer == nullptr || transfer->peer() != peer.worker()) {
    AnswerUnknown(peer.worker(), message);
  } else if (const auto* grant = std::get_if<Grant>(&message.body)) {
    std::optional<DataLink> link;
    if (const Peer::Link* serve = peer.ServeLink(grant->mode)) {
      link = DataLink{serve->transport, serve->id};
    }
    transfer->OnGrant(*grant, link);
  } else if (const auto* refuse = std::get_if<Refuse>(&message.body)) {
    transfer->OnRefuse(*refuse);
  } else if (const auto* ack = std::get_if<Ack>(&message.body)) {
    transfer->OnAck(*ack);
  } else if (const auto* credit = std::get_if<Credit>(&message.body)) {
    transfer->OnCredit(*credit);
  } else if (const auto* stop = std::get_if<Stop>(&message.body)) {
    transfer->OnStop(*stop);
  } else if (const auto* outcome = std::get_if<Outcome>(&message.body)) {
    transfer->OnOutcome(*outcome);
  }
}

// --- transports and peers ---------------------------------------------------

void TransferEngine::Core::OnLinkUp(LinkId link) {
  link_events_.push_back({link, true, absl::OkStatus()});
}

void TransferEngine::Core::OnLinkDown(LinkId link, const absl::Status& status) {
  link_events_.push_back({link, false, status});
}

void TransferEngine::Core::OnData(LinkId link, const DataHeader& header,
                                  absl::Span<const std::byte> payload) {
  if (header.to_generation != options.manifest.generation) {
    ++stats_.stale_messages["data"];
    return;
  }
  if (DestinationTransfer* d = FindDestination(header.transfer_id)) {
    const Peer* peer = peers->Find(d->peer());
    if (peer != nullptr && peer->generation() != header.from_generation) {
      ++stats_.stale_messages["data"];
      return;
    }
    d->OnData(link, header, payload);
  } else {
    ++stats_.late_messages["data"];
  }
}

void TransferEngine::Core::OnFenced(LinkId link, Fence fence) {
  quarantine_.OnFenced(link, fence);
}

bool TransferEngine::Core::OnPeerLost(const Peer& peer,
                                      const absl::Status& why) {
  dirty_ = true;
  if (peer.state == PeerState::kUp) ++stats_.peers_lost[peer.worker()];
  quarantine_.OnPeerLost(peer.worker());
  bool still_reads = false;
  for (DestinationTransfer* transfer : active_destinations_) {
    if (transfer->peer() != peer.worker()) continue;
    transfer->OnPeerLost(why, true);
    still_reads = still_reads || transfer->open();
  }
  // Completed ones may still wait for an attachment.
  for (auto& [id, transfer] : destinations_) {
    if (transfer->awaits_attachment() && transfer->peer() == peer.worker()) {
      transfer->OnPeerLost(why, false);
    }
  }
  for (auto& [id, transfer] : sources_) {
    if (transfer->peer() == peer.worker()) transfer->OnPeerLost(why);
  }
  return still_reads;
}

// --- the loop ---------------------------------------------------------------

bool TransferEngine::Core::RunInbox() {
  const std::vector<std::function<void()>> commands =
      inbox.Drain(std::chrono::nanoseconds(0));
  for (const std::function<void()>& command : commands) command();
  return !commands.empty();
}

bool TransferEngine::Core::HandleLinkEvents() {
  std::vector<LinkEvent> events;
  events.swap(link_events_);
  for (const LinkEvent& event : events) {
    if (event.up) {
      peers->OnDataUp(event.link);
    } else {
      peers->OnDataDown(event.link, event.status);
    }
  }
  return !events.empty();
}

bool TransferEngine::Core::HandleLost() {
  std::vector<std::pair<std::string, absl::Status>> lost;
  lost.swap(lost_);
  for (const auto& [worker, why] : lost) peers->Lose(worker, why);
  return !lost.empty();
}

bool TransferEngine::Core::WorkTransfers() {
  bool more = false;
  for (DestinationTransfer* transfer : active_destinations_) transfer->Work();
  for (SourceTransfer* transfer : active_sources_) {
    more = transfer->Work() || more;
  }
  if (!quarantine_.empty()) {
    quarantine_.Work();
    dirty_ = true;
  }
  return more;
}

void TransferEngine::Core::BindSources(int64_t now_ms) {
  for (size_t i = 0; i < waiting_sources_.size();) {
    const WaitingSource waiting = waiting_sources_[i];
    SourceTransfer* transfer = FindSource(waiting.id);
    if (transfer != nullptr && !transfer->ended() && !transfer->bound()) {
      const Peer* peer = peers->Find(transfer->peer());
      const uint64_t wanted = transfer->target_generation();
      if (peer != nullptr && peer->generation() > wanted) {
        transfer->OnPeerLost(absl::AbortedError(absl::StrCat(
            "stale generation ", wanted, ", current ", peer->generation())));
      } else if (peer != nullptr && peer->state == PeerState::kRefused) {
        transfer->OnPeerLost(peer->status);
      } else if (peer != nullptr && peer->state == PeerState::kUp &&
                 peer->generation() == wanted) {
        transfer->OnPeerUp(peer->theirs.manifest);
      } else if (now_ms - waiting.since_ms >= options.peer_lost_ms) {
        transfer->OnPeerLost(absl::UnavailableError(
            absl::StrCat("no link to peer ", transfer->peer())));
      } else {
        ++i;
        continue;
      }
    }
    waiting_sources_[i] = waiting_sources_.back();
    waiting_sources_.pop_back();
  }
}

void TransferEngine::Core::Tick(int64_t now_ms) {
  if (now_ms == last_tick_ms_) return;
  last_tick_ms_ = now_ms;
  peers->OnTick();
  for (DestinationTransfer* transfer : active_destinations_) {
    transfer->OnTick();
  }
  for (SourceTransfer* transfer : active_sources_) transfer->OnTick();
  quarantine_.OnTick();
  TickLingering();
  ExpireRecords(now_ms);
}

// Ended transfers that still re-send a Stop or wait for an attachment.
void TransferEngine::Core::TickLingering() {
  for (size_t i = 0; i < lingering_.size();) {
    DestinationTransfer* d = FindDestination(lingering_[i]);
    SourceTransfer* s = FindSource(lingering_[i]);
    if (d != nullptr && d->lingers()) d->OnTick();
    if (s != nullptr && s->lingers()) s->OnTick();
    if ((d != nullptr && d->lingers()) || (s != nullptr && s->lingers())) {
      ++i;
      continue;
    }
    lingering_[i] = lingering_.back();
    lingering_.pop_back();
  }
}

void TransferEngine::Core::Retire(int64_t now_ms) {
  const auto retire = [&](auto& active, bool source) {
    for (size_t i = 0; i < active.size();) {
      if (!active[i]->ended()) {
        ++i;
        continue;
      }
      dirty_ = true;
      if (active[i]->lingers()) lingering_.push_back(active[i]->id());
      records_.push_back({now_ms + options.record_ms, active[i]->id(), source});
      active[i] = active.back();
      active.pop_back();
    }
  };
  retire(active_destinations_, false);
  retire(active_sources_, true);
}

void TransferEngine::Core::ExpireRecords(int64_t now_ms) {
  while (!records_.empty() && (records_.front().expires_ms <= now_ms ||
                               records_.size() > options.max_records)) {
    const Record record = records_.front();
    records_.pop_front();
    if (record.source) {
      ForgetSource(record.id);
    } else {
      destinations_.erase(record.id);
    }
    dirty_ = true;
  }
}

void TransferEngine::Core::ForgetSource(const TransferId& id) {
  if (sources_.at(id)->unproven()) {
    unproven_overflow_ = unproven_overflow_ || unproven_.size() >= kMaxUnproven;
    if (!unproven_overflow_) unproven_.insert(id);
  }
  sources_.erase(id);
}

void TransferEngine::Core::Publish() {
  if (peers_dirty_) peer_infos.Publish(peers->Infos());
  if (dirty_) {
    stats_.terminal_records = records_.size();
    stats_snapshot.Publish(stats_);
  }
  dirty_ = false;
  peers_dirty_ = false;
}

void TransferEngine::Core::FinishShutdown() {
  if (!shutting_down.load() || drained.load()) return;
  if (!active_destinations_.empty() || !active_sources_.empty()) return;
  if (!WaitForFences()) return;
  peers->CloseAll();
  regions_.CheckInvariants();
  drained.store(true, std::memory_order_release);
}

// What may still be written is waited for within the drain budget. Then peers
// are closed and adapters told to refuse them; memory that a living process
// maps is safe only when ours has exited.
bool TransferEngine::Core::WaitForFences() {
  if (quarantine_.empty()) return true;
  const int64_t over_ms =
      options.clock->NowMs() - shutdown_ms_ - options.drain_timeout_ms;
  if (over_ms < 0) return false;
  if (!std::exchange(deregistered_, true)) {
    peers->CloseAll();
    for (const auto& transport : options.transports) transport->Deregister();
  }
  return over_ms >= kDeregisterMs;
}

int64_t TransferEngine::Core::SleepMicros() const {
  for (const auto& transport : options.transports) {
    if (transport->event_fd() < 0) return 1'000;
  }
  const bool active = !active_destinations_.empty() || !active_sources_.empty();
  if (active) return kActiveSleepUs;
  if (!lingering_.empty() || !quarantine_.empty()) return kLingeringSleepUs;
  const int64_t now_ms = options.clock->NowMs();
  const int64_t next_ms = peers->NextTickMs(now_ms + kIdleSleepUs / 1000);
  return std::max<int64_t>(1, next_ms - now_ms) * 1000;
}

int64_t TransferEngine::Core::RunOnce(bool may_sleep) {
  bool busy = RunInbox();
  for (const auto& transport : options.transports) {
    busy = transport->Progress(*this, false) || busy;
  }
  busy = HandleLinkEvents() || busy;
  const int64_t now_ms = options.clock->NowMs();
  BindSources(now_ms);
  busy = WorkTransfers() || busy;
  Tick(now_ms);
  busy = HandleLost() || busy;
  Retire(now_ms);
  if (busy) return 0;
  if (!may_sleep) return SleepMicros();
  for (const auto& transport : options.transports) {
    busy = transport->Progress(*this, true) || busy;
  }
  if (busy || !link_events_.empty()) return 0;
  FinishShutdown();
  Publish();
  return drained.load() ? 1 : SleepMicros();
}

void TransferEngine::Core::CheckInvariants() const {
  regions_.CheckInvariants();
  size_t ended = 0;
  for (const auto& [id, transfer] : destinations_) {
    SLUICE_CHECK(transfer->id() == id);
    ended += transfer->ended() ? 1 : 0;
  }
  for (const auto& [id, transfer] : sources_) {
    SLUICE_CHECK(transfer->id() == id);
    ended += transfer->ended() ? 1 : 0;
  }
  const size_t active = active_destinations_.size() + active_sources_.size();
  SLUICE_CHECK(destinations_.size() + sources_.size() ==
               active + records_.size());
  SLUICE_CHECK(ended >= records_.size());
  SLUICE_CHECK(records_.size() <= size_t{options.max_records} + active);
  const auto& inflight = stats_.inflight_transfers;
  SLUICE_CHECK(inflight[0] + inflight[1] ==
               destinations_.size() + sources_.size() - ended);
  const auto& bytes = stats_.inflight_bytes;
  SLUICE_CHECK(inflight[0] > 0 || bytes[0] == 0);
  SLUICE_CHECK(inflight[1] > 0 || bytes[1] == 0);
  SLUICE_CHECK(stats_.quarantined_blocks == quarantine_.num_blocks());
  SLUICE_CHECK(stats_.quarantined_slots == quarantine_.num_slots());
  SLUICE_CHECK(active > 0 || staging_.num_free() + quarantine_.num_slots() ==
                                 options.staging.num_slots);
}

}  // namespace sluice::kvtransfer
