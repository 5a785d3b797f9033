#include "kvtransfer/destination_transfer.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "kvtransfer/quarantine.h"
#include "kvtransfer/receiving_rectangle.h"
#include "kvtransfer/staging_table.h"

namespace sluice::kvtransfer {

// One stream of the plan and its rectangles.
struct DestinationTransfer::Stream {
  Stream(StreamPlan p, StreamCoverage c)
      : plan(std::move(p)), coverage(std::move(c)) {}
  StreamPlan plan;
  StreamCoverage coverage;
  std::map<uint32_t, std::unique_ptr<Receiving>> receiving;  // by index
  std::set<uint32_t> verified;  // at or above next_index
  uint32_t next_index = 0;      // all below are verified
  bool last_seen = false;
  uint64_t placed_bytes = 0;
  uint64_t acked_bytes = 0;

  bool IsVerified(uint32_t index) const {
    return index < next_index || verified.contains(index);
  }
  bool done() const {
    return coverage.complete() && receiving.empty() && last_seen;
  }
};

DestinationTransfer::DestinationTransfer(TransferContext* context,
                                         const Ticket& ticket, ReceiveArgs args)
    : context_(context),
      ticket_(ticket),
      args_(std::move(args)),
      started_us_(context->clock->NowMicros()),
      deadline_ms_(context->NowMs() + args_.deadline_ms) {
  context_->CountStart(TransferDirection::kReceive);
}

DestinationTransfer::~DestinationTransfer() { SLUICE_CHECK(reported_); }

std::byte* DestinationTransfer::TargetBytes(
    const RectanglePlan& plan, const RectanglePlan::Run& run) const {
  const InnerOrder order =
      plan.stream().groups[run.group_index].target.layout.inner_order;
  return context_->regions->At(context_->region_key,
                               plan.TargetOffset(run, {ticket_.blocks}),
                               run.shape.BytesIn(order));
}

// Of a copy whose inner orders are equal.
std::byte* DestinationTransfer::TargetAt(const Copy& copy) const {
  return context_->regions->At(context_->region_key, copy.target_offset,
                               copy.size_bytes);
}

void DestinationTransfer::CountLate(const char* kind) {
  ++context_->stats->late_messages[kind];
}

void DestinationTransfer::OnClaim(const Claim& claim,
                                  const Claimant& claimant) {
  const bool known =
      ConstantTimeEqual(ToBytes(claim.capability), ToBytes(ticket_.capability));
  if (!known) {
    // As for a transfer that does not exist.
    context_->send(claimant.worker, id(),
                   Refuse{.code = absl::StatusCode::kNotFound,
                          .detail = "unknown transfer"});
    return;
  }
  if (state_ == State::kTerminal) {
    CountLate("claim");
    context_->send(claimant.worker, id(),
                   Outcome{.state = result_.state,
                           .code = result_.status.code(),
                           .detail = std::string(result_.status.message())});
    return;
  }
  if (state_ == State::kOpen) {
    if (claimant.worker == source_) {
      SendGrant();
      return;
    }
    context_->send(claimant.worker, id(),
                   Refuse{.code = absl::StatusCode::kNotFound,
                          .detail = "unknown transfer"});
    return;
  }
  if (absl::Status status = Accept(claim, claimant); !status.ok()) {
    // All staging is lent: the claim comes again.
    if (absl::IsResourceExhausted(status)) return;
    context_->send(
        claimant.worker, id(),
        Refuse{.code = status.code(), .detail = std::string(status.message())});
    return;
  }
  SendGrant();
}

absl::Status DestinationTransfer::Accept(const Claim& claim,
                                         const Claimant& claimant) {
  if (!args_.expected_source.empty() &&
      claimant.worker != args_.expected_source) {
    return absl::NotFoundError("unknown transfer");
  }
  const LayoutManifest& theirs = *claimant.manifest;
  if (claim.worker != claimant.worker ||
      claim.manifest_id != theirs.manifest_id) {
    return absl::FailedPreconditionError(
        "claim names another worker or manifest than the paired one");
  }
  const uint32_t want =
      (ticket_.num_tokens + theirs.block_tokens - 1) / theirs.block_tokens;
  if (claim.num_blocks != want) {
    return absl::InvalidArgumentError(absl::StrCat(
        "claim of ", claim.num_blocks, " blocks for ", ticket_.num_tokens,
        " tokens of ", theirs.block_tokens, " a block, want ", want));
  }
  ASSIGN_OR_RETURN(std::vector<StreamPlan> plans,
                   context_->Plan(theirs, claim.replica, *context_->manifest,
                                  ticket_.replica));
  mode_ = claimant.link.transport->mode();
  if (mode_ == TransferMode::kPut) RETURN_IF_ERROR(LendSlots(plans));
  payload_bytes_ =
      PayloadBytes(plans, ticket_.num_tokens - ticket_.skip_tokens);
  context_->CountPayload(TransferDirection::kReceive, payload_bytes_);
  for (StreamPlan& plan : plans) {
    StreamCoverage coverage(plan, ticket_.skip_tokens, ticket_.num_tokens);
    streams_.push_back(
        std::make_unique<Stream>(std::move(plan), std::move(coverage)));
  }
  ForgetAppended();
  source_ = claimant.worker;
  source_generation_ = theirs.generation;
  claim_ = claim;
  link_ = claimant.link;
  result_.transport = claimant.link.transport->name();
  state_ = State::kOpen;
  result_.claim_us = context_->clock->NowMicros() - started_us_;
  if (mode_ == TransferMode::kStream) {
    ack_timer_.Start(context_->NowMs(), context_->limits);
  }
  return absl::OkStatus();
}

// Puts go through staging where they must, and where they would be too short.
absl::Status DestinationTransfer::LendSlots(
    const std::vector<StreamPlan>& plans) {
  const StagingArea& area = context_->staging->area();
  const StagingNeed need =
      StagingNeedOf(plans, context_->limits.in_place_bytes);
  const bool fits =
      area.num_slots > 0 && need.least_slot_bytes <= area.slot_bytes;
  if (need.required && !fits) {
    return absl::FailedPreconditionError(
        absl::StrCat("inner orders differ: put mode needs staging slots of ",
                     need.least_slot_bytes, " bytes, has ", area.num_slots,
                     " of ", area.slot_bytes));
  }
  if (!fits || !(need.required || need.advised)) return absl::OkStatus();
  slots_ = context_->staging->Lend(context_->limits.slots_per_transfer);
  if (need.required && slots_.empty()) {
    return absl::ResourceExhaustedError("no staging slot is free");
  }
  return absl::OkStatus();
}

// From here on the blocks hold what another worker wrote.
void DestinationTransfer::ForgetAppended() {
  if (context_->append_digests == nullptr) return;
  const uint32_t block_tokens = context_->manifest->block_tokens;
  for (size_t i = ticket_.skip_tokens / block_tokens; i < ticket_.blocks.size();
       ++i) {
    context_->append_digests->Forget(ticket_.blocks[i]);
  }
}

void DestinationTransfer::SendGrant() {
  Grant grant;
  grant.mode = mode_;
  if (mode_ == TransferMode::kStream) {
    grant.stream_message_bytes = context_->limits.stream_message_bytes;
  }
  for (const uint32_t slot : slots_) {
    grant.slots.push_back(context_->staging->Name(slot));
  }
  context_->send(source_, id(), std::move(grant));
}

DestinationTransfer::Stream* DestinationTransfer::FindStream(
    uint32_t source_rank, uint32_t target_rank) {
  for (const std::unique_ptr<Stream>& stream : streams_) {
    if (stream->plan.source_rank == source_rank &&
        stream->plan.target_rank == target_rank) {
      return stream.get();
    }
  }
  return nullptr;
}

absl::StatusOr<DestinationTransfer::Receiving*>
DestinationTransfer::FindOrStart(Stream& stream, uint32_t index,
                                 const Rectangle& rectangle) {
  const auto found = stream.receiving.find(index);
  if (found != stream.receiving.end()) {
    if (!(found->second->plan.rectangle() == rectangle)) {
      return Illegal(rectangle, "repeats an index with other bounds");
    }
    return found->second.get();
  }
  if (index >= stream.coverage.max_rectangles()) {
    return Illegal(rectangle, absl::StrCat("has index ", index));
  }
  RETURN_IF_ERROR(stream.coverage.Cover(rectangle));
  auto receiving = std::make_unique<Receiving>(this, stream.plan, rectangle);
  if (mode_ == TransferMode::kStream) {
    const uint64_t message = context_->limits.stream_message_bytes;
    receiving->arrived.assign(
        (receiving->plan.wire_bytes() + message - 1) / message, false);
  }
  return stream.receiving.emplace(index, std::move(receiving))
      .first->second.get();
}

void DestinationTransfer::OnRectangleDone(const std::string& worker,
                                          const RectangleDone& done) {
  if (worker != source_) return;
  if (state_ == State::kTerminal) {
    CountLate("rectangle");
    context_->send(worker, id(),
                   Outcome{.state = result_.state,
                           .code = result_.status.code(),
                           .detail = std::string(result_.status.message())});
    return;
  }
  if (state_ != State::kOpen) return;
  Stream* stream = FindStream(done.source_rank, done.target_rank);
  if (stream == nullptr) {
    Fail(Illegal(done.rectangle, "is of no stream of the plan"), true);
    return;
  }
  if (!stream->IsVerified(done.index)) {
    if (absl::Status status = Announce(*stream, done); !status.ok()) {
      Fail(status, true);
      return;
    }
  } else {
    SendCredit(done);  // the one before may be lost
  }
  if (state_ == State::kOpen) SendAck(*stream);
}

absl::Status DestinationTransfer::Announce(Stream& stream,
                                           const RectangleDone& done) {
  ASSIGN_OR_RETURN(Receiving * receiving,
                   FindOrStart(stream, done.index, done.rectangle));
  if (receiving->is_announced) return absl::OkStatus();
  if (done.digests.size() != receiving->plan.num_spans()) {
    return Illegal(done.rectangle,
                   absl::StrCat("has ", done.digests.size(), " digests, want ",
                                receiving->plan.num_spans()));
  }
  receiving->is_announced = true;
  receiving->announced = done;
  stream.last_seen = stream.last_seen || done.last;
  if (mode_ == TransferMode::kPull) return StartRead(stream, *receiving);
  if (mode_ == TransferMode::kPut) RETURN_IF_ERROR(TakePut(*receiving));
  FinishIfVerified(stream, *receiving);
  return absl::OkStatus();
}

absl::Status DestinationTransfer::StartRead(Stream& stream,
                                            Receiving& receiving) {
  RectanglePlan& plan = receiving.plan;
  const std::vector<uint32_t>& blocks = receiving.announced.source_blocks;
  const uint32_t block_tokens = stream.plan.source_block_tokens;
  const Rectangle& r = plan.rectangle();
  const size_t want =
      (r.t1 + block_tokens - 1) / block_tokens - r.t0 / block_tokens;
  if (blocks.size() != want) {
    return Illegal(r,
                   absl::StrCat("has ", blocks.size(), " blocks, want ", want));
  }
  for (const uint32_t block : blocks) {
    for (const StreamGroup& group : stream.plan.groups) {
      if (block == 0 || block >= group.source.num_blocks) {
        return Illegal(r, absl::StrCat("names block ", block, ", limit ",
                                       group.source.num_blocks));
      }
    }
  }
  receiving.copies = plan.Merge(receiving.source_blocks(), {ticket_.blocks});
  std::vector<ReadPiece> pieces;
  pieces.reserve(receiving.copies.size());
  for (const Copy& copy : receiving.copies) {
    pieces.push_back({copy.source_offset, copy.size_bytes});
  }
  result_.copies += pieces.size();
  ASSIGN_OR_RETURN(
      const OperationId read,
      link_->transport->StartRead(link_->link, std::move(pieces), &receiving));
  receiving.read = read;
  context_->regions->StartOperation(context_->region_key);
  return absl::OkStatus();
}

void DestinationTransfer::OnData(LinkId link, const DataHeader& header,
                                 absl::Span<const std::byte> payload) {
  if (state_ != State::kOpen) {
    if (state_ == State::kTerminal) CountLate("data");
    return;
  }
  if (mode_ != TransferMode::kStream || link != link_->link) return;
  Stream* stream = FindStream(header.source_rank, header.target_rank);
  if (stream == nullptr) {
    Fail(Illegal(header.rectangle, "is of no stream of the plan"), true);
    return;
  }
  if (stream->IsVerified(header.index)) return;
  if (absl::Status status = Place(*stream, header, payload); !status.ok()) {
    Fail(status, true);
  }
}

absl::Status DestinationTransfer::Place(Stream& stream,
                                        const DataHeader& header,
                                        absl::Span<const std::byte> payload) {
  ASSIGN_OR_RETURN(Receiving * receiving,
                   FindOrStart(stream, header.index, header.rectangle));
  const uint64_t total = receiving->plan.wire_bytes();
  const uint64_t message = context_->limits.stream_message_bytes;
  if (header.offset >= total || header.offset % message != 0 ||
      payload.size() != std::min(message, total - header.offset)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data [", header.offset, ", +", payload.size(), ") of a rectangle of ",
        total, " in messages of ", message));
  }
  const size_t bit = header.offset / message;
  if (receiving->arrived[bit]) return absl::OkStatus();
  receiving->arrived[bit] = true;
  ++receiving->num_arrived;
  PlaceBytes(*receiving, header.offset, payload);
  ++result_.copies;
  stream.placed_bytes += payload.size();
  if (receiving->num_arrived == receiving->arrived.size()) {
    AddSplitRuns(*receiving);
  }
  FinishIfVerified(stream, *receiving);
  const bool half_window = stream.placed_bytes - stream.acked_bytes >=
                           context_->limits.stream_window_bytes / 4;
  if (state_ == State::kOpen && half_window) SendAck(stream);
  return absl::OkStatus();
}

// The bytes of an announced rectangle have landed: in place, or in a slot.
absl::Status DestinationTransfer::TakePut(Receiving& receiving) {
  const RectanglePlan& plan = receiving.plan;
  const std::optional<uint32_t> slot = receiving.announced.slot;
  if (slot.has_value() != !slots_.empty() ||
      (slot.has_value() && *slot >= slots_.size())) {
    return Illegal(plan.rectangle(), slot.has_value()
                                         ? absl::StrCat("is in slot ", *slot,
                                                        " of ", slots_.size())
                                         : std::string("names no slot"));
  }
  if (slot.has_value()) {
    const uint64_t size = plan.wire_bytes();
    if (size > context_->staging->area().slot_bytes) {
      return Illegal(plan.rectangle(),
                     absl::StrCat("of ", size, " bytes is in a slot of ",
                                  context_->staging->area().slot_bytes));
    }
    const std::byte* bytes = context_->regions->At(
        context_->region_key, context_->staging->OffsetOf(slots_[*slot]), size);
    PlaceBytes(receiving, 0, {bytes, size});
    result_.copies += plan.num_runs();
    return absl::OkStatus();
  }
  if (!context_->limits.digests) return absl::OkStatus();
  for (uint32_t i = 0; i < plan.num_runs(); ++i) {
    const RectanglePlan::Run run = plan.run(i);
    const InnerOrder order =
        plan.stream().groups[run.group_index].target.layout.inner_order;
    receiving.digests[plan.SpanOf(run)] +=
        DigestRun(run.shape, order, TargetBytes(plan, run));
  }
  return absl::OkStatus();
}

void DestinationTransfer::PlaceBytes(Receiving& receiving, uint64_t offset,
                                     absl::Span<const std::byte> payload) {
  const RectanglePlan& plan = receiving.plan;
  for (uint32_t i = plan.FindRun(offset); !payload.empty(); ++i) {
    const RectanglePlan::Run run = plan.run(i);
    const StreamGroup& group = plan.stream().groups[run.group_index];
    const InnerOrder to_order = group.target.layout.inner_order;
    const uint64_t skip = offset - run.wire_offset;
    const uint64_t size =
        std::min<uint64_t>(run.wire_bytes - skip, payload.size());
    std::byte* to = TargetBytes(plan, run);
    const bool same_order = group.wire_order() == to_order;
    if (size == run.wire_bytes && (context_->limits.digests || !same_order)) {
      receiving.digests[plan.SpanOf(run)] +=
          CopyRun(run.shape, group.wire_order(), payload.data(), to_order, to);
    } else if (same_order) {
      std::memcpy(to + skip, payload.data(), size);
    } else {
      PlaceCanonicalPiece(run.shape, skip, size, payload.data(), to_order, to);
    }
    payload.remove_prefix(size);
    offset += size;
  }
}

// Runs that a message boundary cut were placed without a digest: read them
// back, once they are whole.
void DestinationTransfer::AddSplitRuns(Receiving& receiving) {
  if (!context_->limits.digests) return;
  const RectanglePlan& plan = receiving.plan;
  const uint64_t message = context_->limits.stream_message_bytes;
  int64_t previous = -1;
  for (uint64_t cut = message; cut < plan.wire_bytes(); cut += message) {
    const uint32_t index = plan.FindRun(cut);
    const RectanglePlan::Run run = plan.run(index);
    if (run.wire_offset == cut || index == previous) continue;
    previous = index;
    const InnerOrder order =
        plan.stream().groups[run.group_index].target.layout.inner_order;
    receiving.digests[plan.SpanOf(run)] +=
        DigestRun(run.shape, order, TargetBytes(plan, run));
  }
}

absl::Status DestinationTransfer::Verify(Stream& stream, Receiving& receiving) {
  if (!context_->limits.digests) return absl::OkStatus();
  for (size_t span = 0; span < receiving.digests.size(); ++span) {
    if (receiving.digests[span] == receiving.announced.digests[span]) continue;
    ++context_->stats->digest_failures[source_];
    return absl::DataLossError(absl::StrCat(
        "stream ", stream.plan.source_rank, " -> ", stream.plan.target_rank,
        " rectangle ", receiving.announced.index, " span ", span, " digest ",
        absl::Hex(receiving.digests[span], absl::kZeroPad16), ", sender has ",
        absl::Hex(receiving.announced.digests[span], absl::kZeroPad16)));
  }
  return absl::OkStatus();
}

// Everything of a rectangle is here: check it, forget it, maybe complete.
void DestinationTransfer::FinishIfVerified(Stream& stream,
                                           Receiving& receiving) {
  if (!receiving.is_announced) return;
  if (mode_ == TransferMode::kStream &&
      receiving.num_arrived != receiving.arrived.size()) {
    return;
  }
  if (absl::Status status = Verify(stream, receiving); !status.ok()) {
    Fail(status, true);
    return;
  }
  result_.bytes += receiving.plan.wire_bytes();
  const uint32_t index = receiving.announced.index;
  SendCredit(receiving.announced);
  stream.receiving.erase(index);
  stream.verified.insert(index);
  while (stream.verified.erase(stream.next_index) > 0) ++stream.next_index;
  const bool done = std::all_of(streams_.begin(), streams_.end(),
                                [](const auto& s) { return s->done(); });
  if (!done) {
    SendAck(stream);
    return;
  }
  StoreFence();
  Enter(absl::OkStatus());
  // Every rectangle was flushed before it was announced: no put is left.
  context_->staging->Return(std::exchange(slots_, {}));
  context_->send(source_, id(),
                 Outcome{.state = TransferState::kCompleted,
                         .code = absl::StatusCode::kOk});
}

void DestinationTransfer::SendAck(Stream& stream) {
  stream.acked_bytes = stream.placed_bytes;
  context_->send(source_, id(),
                 Ack{.source_rank = stream.plan.source_rank,
                     .target_rank = stream.plan.target_rank,
                     .next_index = stream.next_index,
                     .placed_bytes = stream.placed_bytes});
}

void DestinationTransfer::SendCredit(const RectangleDone& done) {
  if (!done.slot.has_value() || *done.slot >= slots_.size()) return;
  context_->send(source_, id(),
                 Credit{.slot = *done.slot,
                        .source_rank = done.source_rank,
                        .target_rank = done.target_rank,
                        .index = done.index});
}

void DestinationTransfer::OnStopped(const std::string& worker) {
  if (worker != source_) return;
  stop_timer_.Stop();
  source_stopped_ = true;
  if (state_ == State::kOpen) {
    Fail(absl::UnavailableError("the source stopped sending"), false);
  } else {
    CountLate("stopped");
  }
}

void DestinationTransfer::OnAbort(const std::string& worker,
                                  const Abort& abort) {
  if (worker != peer()) return;
  stop_timer_.Stop();
  source_stopped_ = source_stopped_ || abort.stopped;
  if (state_ == State::kTerminal) {
    CountLate("abort");
    return;
  }
  const absl::StatusCode code = abort.code == absl::StatusCode::kOk
                                    ? absl::StatusCode::kUnknown
                                    : abort.code;
  Fail(absl::Status(code, absl::StrCat("the source gave up: ", abort.detail)),
       false);
}

void DestinationTransfer::OnAttachment(const std::string& worker,
                                       const Attachment& attachment) {
  if (worker != source_ || state_ == State::kTicketed) return;
  context_->send(source_, id(), Ack{.attachment = true});
  const bool wanted =
      state_ == State::kOpen || result_.state == TransferState::kCompleted;
  if (!wanted || args_.on_attachment == nullptr) return;
  const kvtransfer::OnAttachment deliver =
      std::exchange(args_.on_attachment, nullptr);
  deliver(id(), attachment.bytes);
}

void DestinationTransfer::OnCancel(const absl::Status& cause) {
  if (state_ != State::kTerminal) Fail(cause, true);
}

bool DestinationTransfer::AllAnnounced() const {
  for (const std::unique_ptr<Stream>& stream : streams_) {
    if (!stream->coverage.complete()) return false;
    for (const auto& [index, receiving] : stream->receiving) {
      if (!receiving->is_announced) return false;
    }
  }
  return !streams_.empty();
}

void DestinationTransfer::OnPeerLost(const absl::Status& why,
                                     bool keep_reading) {
  peer_lost_ = true;
  lost_why_ = why;
  stop_timer_.Stop();
  GiveUpAttachment(why);
  if (state_ == State::kTerminal) return;
  // The pool of a dead source outlives it: go on reading what it announced.
  if (keep_reading && state_ == State::kOpen && mode_ == TransferMode::kPull &&
      AllAnnounced()) {
    return;
  }
  Fail(why, false);
}

void DestinationTransfer::OnTick() {
  const int64_t now = context_->NowMs();
  if (now >= deadline_ms_) {
    const absl::Status over = absl::DeadlineExceededError(
        absl::StrCat("transfer not done within ", args_.deadline_ms, " ms"));
    if (state_ != State::kTerminal) Fail(over, true);
    GiveUpAttachment(over);
  }
  if (state_ == State::kTerminal && stop_timer_.Fire(now, context_->limits)) {
    ++context_->stats->resent_messages;
    context_->send(source_, id(), Stop{stop_cause_});
  }
  if (state_ == State::kOpen && ack_timer_.Fire(now, context_->limits)) {
    // A lost Ack must not leave the source at the end of its window.
    for (const std::unique_ptr<Stream>& stream : streams_) {
      if (stream->placed_bytes > 0) SendAck(*stream);
    }
  }
}

void DestinationTransfer::Work() {
  if (reported_) return;
  if (mode_ == TransferMode::kPull) PollReads();
  if (state_ == State::kTerminal) MaybeReport();
}

void DestinationTransfer::PollReads() {
  for (const std::unique_ptr<Stream>& stream : streams_) {
    for (auto it = stream->receiving.begin();
         state_ == State::kOpen && it != stream->receiving.end();) {
      Receiving& receiving = *(it++)->second;
      if (!receiving.read.has_value()) continue;
      const std::optional<absl::Status> status = PollRead(receiving);
      if (!status.has_value()) continue;
      if (status->ok()) {
        FinishIfVerified(*stream, receiving);
      } else {
        Fail(absl::UnavailableError(
                 absl::StrCat("read failed: ", status->message())),
             true);
      }
    }
  }
}

std::optional<absl::Status> DestinationTransfer::PollRead(
    Receiving& receiving) {
  std::optional<absl::Status> status = link_->transport->Poll(*receiving.read);
  if (status.has_value()) {
    receiving.read.reset();
    context_->regions->EndOperation(context_->region_key);
  }
  return status;
}

// Leaves Ticketed or Open other than by completion.
void DestinationTransfer::Fail(const absl::Status& status, bool tell_source) {
  const bool was_open = state_ == State::kOpen;
  Enter(status);
  if (!was_open) return;
  const bool stop = tell_source && !peer_lost_;
  if (stop) {
    stop_cause_ = status.message().empty() ? "transfer ended"
                                           : std::string(status.message());
    context_->send(source_, id(), Stop{stop_cause_});
  }
  if (mode_ == TransferMode::kPut) {
    LeaveQuarantined(stop);
  } else if (stop) {
    stop_timer_.Start(context_->NowMs(), context_->limits);
  }
}

// What the source may still write is nobody's.
void DestinationTransfer::LeaveQuarantined(bool stop_sent) {
  std::vector<uint32_t> slots = std::exchange(slots_, {});
  if (source_stopped_) {
    context_->staging->Return(slots);
    return;
  }
  result_.quarantined = true;
  const size_t skipped = ticket_.skip_tokens / context_->manifest->block_tokens;
  context_->quarantine->Add(
      {.id = id(),
       .source = source_,
       .generation = source_generation_,
       .link = link_->link,
       .link_open = !peer_lost_,
       .num_blocks = static_cast<uint32_t>(ticket_.blocks.size() - skipped),
       .slots = std::move(slots),
       .stop_cause = stop_sent ? stop_cause_ : ""});
}

void DestinationTransfer::Enter(const absl::Status& status) {
  SLUICE_CHECK(state_ != State::kTerminal);
  state_ = State::kTerminal;
  result_.state = StateOf(status.code());
  result_.status = status;
  ack_timer_.Stop();
  for (const std::unique_ptr<Stream>& stream : streams_) {
    for (auto& [index, receiving] : stream->receiving) {
      dropped_.push_back(std::move(receiving));
    }
    stream->receiving.clear();
  }
}

// Reports once our own reads are final: nothing of ours touches the blocks
// any more. From Work() only, where nobody holds a stream or a rectangle.
void DestinationTransfer::MaybeReport() {
  for (const std::unique_ptr<Receiving>& receiving : dropped_) {
    if (receiving->read.has_value() && !PollRead(*receiving).has_value()) {
      return;
    }
  }
  reported_ = true;
  result_.elapsed_us = context_->clock->NowMicros() - started_us_;
  // Only what answers repeats is kept.
  dropped_.clear();
  streams_.clear();
  ticket_.blocks = {};
  args_.blocks = {};
  context_->CountEnd(TransferDirection::kReceive, result_, payload_bytes_);
  if (result_.state != TransferState::kCompleted) args_.on_attachment = nullptr;
  ReportEnd();
  if (peer_lost_) GiveUpAttachment(lost_why_);
}

void DestinationTransfer::ReportEnd() {
  const OnTransferEnded on_ended = std::exchange(args_.on_ended, nullptr);
  const OnBlocksReleased on_released =
      std::exchange(args_.on_released, nullptr);
  if (result_.quarantined && on_released) {
    context_->quarantine->SetOnReleased(
        id(), [id = id(), on_released] { on_released(id); });
  } else if (result_.quarantined) {
    // Who does not know of quarantine is told the end when it is over.
    TransferResult result = result_;
    result.quarantined = false;
    context_->quarantine->SetOnReleased(id(), [id = id(), on_ended, result] {
      if (on_ended) on_ended(id, result);
    });
    return;
  }
  if (on_ended) on_ended(id(), result_);
}

void DestinationTransfer::GiveUpAttachment(const absl::Status& why) {
  if (!reported_ || args_.on_attachment == nullptr) return;
  const kvtransfer::OnAttachment deliver =
      std::exchange(args_.on_attachment, nullptr);
  deliver(id(), why);
}

}  // namespace sluice::kvtransfer
