#include "kvtransfer/source_transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvtransfer/staging_table.h"

namespace sluice::kvtransfer {
namespace {

constexpr size_t kMaxResentRectangles = 16;
// Sent before more are gathered: what was gathered is still in a cache then.
constexpr int kMessagesPerTurn = 2;

uint32_t NumLayersOf(const LayoutManifest& manifest, uint32_t replica) {
  uint32_t end = 0;
  if (replica >= manifest.replicas.size()) return 0;
  for (const RankManifest& rank : manifest.replicas[replica].ranks) {
    end = std::max(end, rank.first_layer + rank.num_layers);
  }
  return end;
}

// A ticket names only what may be written.
absl::Status CheckTicketBlocks(const Ticket& ticket,
                               const LayoutManifest& peer) {
  const size_t skipped = ticket.skip_tokens / peer.block_tokens;
  for (size_t i = 0; i < std::min(skipped, ticket.blocks.size()); ++i) {
    if (ticket.blocks[i] == 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "ticket names skipped block ", ticket.blocks[i], " at ", i));
  }
  return CheckBlockList({.manifest = &peer,
                         .replica = ticket.replica,
                         .blocks = ticket.blocks,
                         .skip_tokens = ticket.skip_tokens,
                         .num_tokens = ticket.num_tokens,
                         .is_target = true});
}

}  // namespace

SourceTransfer::SourceTransfer(TransferContext* context, SendArgs args)
    : context_(context),
      args_(std::move(args)),
      started_us_(context->clock->NowMicros()),
      deadline_ms_(context->NowMs() + args_.ticket.remaining_ms) {
  const uint32_t layers = NumLayersOf(*context->manifest, args_.replica);
  const uint32_t block_tokens = context->manifest->block_tokens;
  blocks_.resize((args_.ticket.num_tokens + block_tokens - 1) / block_tokens);
  final_tokens_.assign(layers, args_.ticket.skip_tokens);
  queued_tokens_ = final_tokens_;
  context_->CountStart(TransferDirection::kSend);
}

SourceTransfer::~SourceTransfer() { SLUICE_CHECK(operations_.empty()); }

void SourceTransfer::OnPeerUp(const LayoutManifest& peer) {
  if (bound_ || ended()) return;
  if (peer.manifest_id != args_.ticket.manifest_id) {
    EndUnposted(absl::FailedPreconditionError(absl::StrCat(
                    "ticket names another manifest of ", peer.worker)),
                true);
    return;
  }
  absl::StatusOr<std::vector<StreamPlan>> plans = context_->Plan(
      *context_->manifest, args_.replica, peer, args_.ticket.replica);
  absl::Status status = plans.status();
  if (status.ok()) status = CheckTicketBlocks(args_.ticket, peer);
  if (!status.ok()) {
    EndUnposted(status, true);
    return;
  }
  bound_ = true;
  payload_bytes_ =
      PayloadBytes(*plans, args_.ticket.num_tokens - args_.ticket.skip_tokens);
  context_->CountPayload(TransferDirection::kSend, payload_bytes_);
  for (StreamPlan& plan : *plans) {
    Stream stream;
    stream.plan = std::move(plan);
    streams_.push_back(std::move(stream));
  }
  MaybeClaim();
}

void SourceTransfer::OnPeerLost(const absl::Status& why) {
  peer_lost_ = true;
  attachment_timer_.Stop();
  switch (state_) {
    case State::kWaiting:
    case State::kClaimed:
      EndUnposted(why, false);
      return;
    case State::kSending:
      endpoint_failed_ = true;
      Drain(why);
      return;
    case State::kDraining:
      endpoint_failed_ = true;
      return;
    case State::kEnded:
      return;
  }
}

void SourceTransfer::OnOffer(const RectangleOffer& offer) {
  if (ended() || state_ == State::kDraining) return;
  const Rectangle& r = offer.rectangle;
  const uint32_t block_tokens = context_->manifest->block_tokens;
  SLUICE_CHECK(r.t0 < r.t1 && r.l0 < r.l1 && r.l1 <= final_tokens_.size());
  const uint32_t first = r.t0 / block_tokens;
  const uint32_t count = (r.t1 + block_tokens - 1) / block_tokens - first;
  SLUICE_CHECK(offer.blocks.size() == count);
  // The ticket, which came from outside, may want less than there is.
  const uint32_t t1 = std::min(r.t1, args_.ticket.num_tokens);
  if (r.t0 >= t1) return;
  const uint64_t limit = NumBlocks(*context_->manifest, args_.replica);
  for (uint32_t i = 0; i < count && first + i < blocks_.size(); ++i) {
    SLUICE_CHECK(offer.blocks[i] < limit);
    blocks_[first + i] = offer.blocks[i];
  }
  for (uint32_t layer = r.l0; layer < r.l1; ++layer) {
    SLUICE_CHECK(r.t0 <= final_tokens_[layer]);
    final_tokens_[layer] = std::max(final_tokens_[layer], t1);
  }
  if (all_offered_us_ < 0 &&
      std::all_of(final_tokens_.begin(), final_tokens_.end(),
                  [&](uint32_t n) { return n == args_.ticket.num_tokens; })) {
    all_offered_us_ = context_->clock->NowMicros();
  }
  MaybeClaim();
}

void SourceTransfer::MaybeClaim() {
  if (state_ != State::kWaiting || !bound_) return;
  const bool any = std::any_of(
      final_tokens_.begin(), final_tokens_.end(),
      [&](uint32_t tokens) { return tokens > args_.ticket.skip_tokens; });
  if (!any) return;
  state_ = State::kClaimed;
  claim_timer_.Start(context_->NowMs(), context_->limits);
  SendClaim();
}

void SourceTransfer::SendClaim() {
  context_->send(peer(), id(),
                 Claim{.worker = context_->manifest->worker,
                       .replica = args_.replica,
                       .manifest_id = context_->manifest->manifest_id,
                       .num_blocks = static_cast<uint32_t>(blocks_.size()),
                       .capability = args_.ticket.capability});
}

void SourceTransfer::OnAttachment(std::string bytes) {
  if (attachment_.has_value() || attachment_acked_) return;
  if (ended() && result_.state != TransferState::kCompleted) return;
  attachment_ = std::move(bytes);
  MaybeSendAttachment();
}

void SourceTransfer::MaybeSendAttachment() {
  if (!attachment_.has_value() || attachment_acked_ || peer_lost_) return;
  const bool open = state_ == State::kSending ||
                    (ended() && result_.state == TransferState::kCompleted);
  if (!open) return;
  context_->send(peer(), id(), Attachment{*attachment_});
  if (!attachment_timer_.armed()) {
    attachment_timer_.Start(context_->NowMs(), context_->limits);
  }
}

void SourceTransfer::OnCancel(const absl::Status& cause) {
  switch (state_) {
    case State::kWaiting:
    case State::kClaimed:
      EndUnposted(cause, true);
      return;
    case State::kSending:
      Drain(cause);
      return;
    case State::kDraining:
    case State::kEnded:
      return;
  }
}

void SourceTransfer::OnGrant(const Grant& grant,
                             const std::optional<DataLink>& link) {
  if (state_ != State::kClaimed) return;
  claim_timer_.Stop();
  grant_ = grant;
  link_ = link;
  result_.claim_us = context_->clock->NowMicros() - started_us_;
  state_ = State::kSending;
  if (absl::Status status = CheckGrant(grant); !status.ok()) {
    Drain(status);
    return;
  }
  if (grant.mode == TransferMode::kPut) {
    puts_.emplace(context_, *link, grant);
    for (const StagingSlot& slot : grant.slots) {
      max_rectangle_bytes_ = std::min(max_rectangle_bytes_, slot.size_bytes);
    }
  }
  if (link.has_value()) result_.transport = link->transport->name();
  MaybeSendAttachment();
}

absl::Status SourceTransfer::CheckGrant(const Grant& grant) const {
  if (grant.mode == TransferMode::kPull) return absl::OkStatus();
  if (!link_.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot send in mode ", TransferModeName(grant.mode)));
  }
  if (grant.mode == TransferMode::kStream) {
    if (grant.stream_message_bytes >= 1024 &&
        grant.stream_message_bytes <= (256 << 10) &&
        grant.stream_message_bytes % 64 == 0) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "granted messages of ", grant.stream_message_bytes, " bytes"));
  }
  std::vector<StreamPlan> plans;
  for (const Stream& stream : streams_) plans.push_back(stream.plan);
  const StagingNeed need =
      StagingNeedOf(plans, context_->limits.in_place_bytes);
  if (need.required && grant.slots.empty()) {
    return absl::InvalidArgumentError(
        "granted no staging slots for another inner order");
  }
  for (const StagingSlot& slot : grant.slots) {
    if (slot.size_bytes >= need.least_slot_bytes) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "granted a staging slot of ", slot.size_bytes,
        " bytes, one span of one layer has ", need.least_slot_bytes));
  }
  return absl::OkStatus();
}

void SourceTransfer::OnRefuse(const Refuse& refuse) {
  const absl::Status status(refuse.code == absl::StatusCode::kOk
                                ? absl::StatusCode::kUnknown
                                : refuse.code,
                            absl::StrCat("refused: ", refuse.detail));
  if (state_ == State::kClaimed) {
    EndUnposted(status, false);
  } else if (state_ == State::kSending) {
    Drain(status);
  }
}

void SourceTransfer::OnOutcome(const Outcome& outcome) {
  const bool completed = outcome.state == TransferState::kCompleted;
  const absl::Status status =
      completed ? absl::OkStatus()
                : absl::Status(outcome.code == absl::StatusCode::kOk
                                   ? absl::StatusCode::kUnknown
                                   : outcome.code,
                               absl::StrCat("destination: ", outcome.detail));
  switch (state_) {
    case State::kWaiting:
    case State::kEnded:
      return;
    case State::kClaimed:
      // Nothing was posted, so it cannot have completed.
      EndUnposted(completed ? absl::InvalidArgumentError(
                                  "destination completed before any data")
                            : status,
                  false);
      return;
    case State::kSending:
      Drain(status);
      return;
    case State::kDraining:
      if (completed) reason_ = absl::OkStatus();
      return;
  }
}

void SourceTransfer::OnStop(const Stop& stop) {
  switch (state_) {
    case State::kWaiting:
    case State::kClaimed:
      // Our claim may have been granted in a message still under way.
      context_->send(peer(), id(), Stopped{});
      EndUnposted(absl::CancelledError(
                      absl::StrCat("stopped by destination: ", stop.cause)),
                  false);
      return;
    case State::kSending:
      Drain(absl::CancelledError(
          absl::StrCat("stopped by destination: ", stop.cause)));
      return;
    case State::kDraining:
      return;  // Stopped follows
    case State::kEnded:
      if (unproven_) {
        context_->send(peer(), id(),
                       Abort{.code = absl::StatusCode::kUnavailable,
                             .detail = "a put had no final flush"});
      } else {
        context_->send(peer(), id(), Stopped{});
      }
      return;
  }
}

void SourceTransfer::OnCredit(const Credit& credit) {
  if (puts_.has_value()) puts_->OnCredit(credit);
}

void SourceTransfer::OnAck(const Ack& ack) {
  if (ack.attachment) {
    attachment_acked_ = true;
    attachment_.reset();
    attachment_timer_.Stop();
    return;
  }
  if (state_ != State::kSending) return;
  if (puts_.has_value()) puts_->OnAck(ack);
  for (Stream& stream : streams_) {
    if (stream.plan.source_rank != ack.source_rank ||
        stream.plan.target_rank != ack.target_rank) {
      continue;
    }
    stream.acked_bytes = std::max(stream.acked_bytes, ack.placed_bytes);
    if (ack.next_index <= stream.acked_index ||
        ack.next_index > stream.next_index) {
      return;
    }
    stream.acked_index = ack.next_index;
    rectangle_timer_.Start(context_->NowMs(), context_->limits);
  }
  while (!unacked_.empty()) {
    const Pending& front = unacked_.front();
    const Stream& stream = streams_[front.stream_index];
    if (front.done.index >= stream.acked_index) break;
    unacked_.pop_front();
  }
  if (unacked_.empty()) rectangle_timer_.Stop();
}

void SourceTransfer::OnTick() {
  const int64_t now = context_->NowMs();
  if (attachment_timer_.Fire(now, context_->limits)) {
    ++context_->stats->resent_messages;
    MaybeSendAttachment();
  }
  if (ended()) return;
  if (now >= deadline_ms_) {
    const absl::Status over = absl::DeadlineExceededError(absl::StrCat(
        "transfer not done within ", args_.ticket.remaining_ms, " ms"));
    if (state_ == State::kWaiting || state_ == State::kClaimed) {
      EndUnposted(over, true);
      return;
    }
    if (state_ == State::kSending) Drain(over);
  }
  if (state_ == State::kClaimed && claim_timer_.Fire(now, context_->limits)) {
    ++context_->stats->resent_messages;
    SendClaim();
  }
  if (state_ == State::kSending &&
      rectangle_timer_.Fire(now, context_->limits)) {
    ResendRectangles();
  }
  if (state_ == State::kDraining && !endpoint_failed_ &&
      now >= drain_deadline_ms_) {
    endpoint_failed_ = true;
    context_->lose_peer(
        peer(), absl::UnavailableError("posted operations did not end"));
  }
}

void SourceTransfer::ResendRectangles() {
  size_t sent = 0;
  for (const Pending& pending : unacked_) {
    if (++sent > kMaxResentRectangles) return;
    ++context_->stats->resent_messages;
    context_->send(peer(), id(), pending.done);
  }
}

bool SourceTransfer::Work() {
  if (ended()) return false;
  PollOperations();
  if (state_ == State::kDraining) {
    MaybeFinishDraining();
    return false;
  }
  if (state_ != State::kSending) return false;
  CollectRectangles();
  return PostNext();
}

uint32_t SourceTransfer::ReadyTokens(uint32_t layer) const {
  const uint32_t tokens = final_tokens_[layer];
  if (tokens == args_.ticket.num_tokens) return tokens;
  const uint32_t span = streams_.front().plan.span_tokens();
  return std::max(queued_tokens_[layer], tokens / span * span);
}

// Layers that stand alike go into one rectangle.
void SourceTransfer::CollectRectangles() {
  if (streams_.empty()) return;
  const uint32_t layers = static_cast<uint32_t>(final_tokens_.size());
  for (uint32_t l0 = 0; l0 < layers;) {
    const uint32_t from = queued_tokens_[l0];
    const uint32_t to = ReadyTokens(l0);
    uint32_t l1 = l0 + 1;
    while (l1 < layers && queued_tokens_[l1] == from && ReadyTokens(l1) == to) {
      ++l1;
    }
    if (from < to) QueueRectangle({from, to, l0, l1});
    l0 = l1;
  }
  MarkLast();
}

void SourceTransfer::QueueRectangle(const Rectangle& whole) {
  uint64_t token_layer_bytes = 0;
  for (const Stream& stream : streams_) {
    token_layer_bytes += stream.plan.token_layer_bytes();
  }
  const uint32_t span = streams_.front().plan.span_tokens();
  for (const Rectangle& r :
       CutRectangle(whole, span, token_layer_bytes, max_rectangle_bytes_)) {
    for (size_t s = 0; s < streams_.size(); ++s) {
      Stream& stream = streams_[s];
      Pending pending;
      pending.stream_index = s;
      pending.done.source_rank = stream.plan.source_rank;
      pending.done.target_rank = stream.plan.target_rank;
      pending.done.rectangle = {r.t0, r.t1, std::max(r.l0, stream.plan.l0),
                                std::min(r.l1, stream.plan.l1)};
      if (pending.done.rectangle.l0 >= pending.done.rectangle.l1) continue;
      pending.done.index = stream.next_index++;
      queue_.push_back(std::move(pending));
    }
  }
  for (uint32_t l = whole.l0; l < whole.l1; ++l) queued_tokens_[l] = whole.t1;
}

void SourceTransfer::MarkLast() {
  for (size_t s = 0; s < streams_.size(); ++s) {
    Stream& stream = streams_[s];
    if (stream.last_queued) continue;
    bool all = true;
    for (uint32_t l = stream.plan.l0; l < stream.plan.l1; ++l) {
      all = all && queued_tokens_[l] == args_.ticket.num_tokens;
    }
    if (!all) continue;
    for (auto it = queue_.rbegin(); it != queue_.rend(); ++it) {
      if (it->stream_index != s) continue;
      it->done.last = true;
      stream.last_queued = true;
      break;
    }
  }
}

const std::byte* SourceTransfer::SourceBytes(
    const RectanglePlan& plan, const RectanglePlan::Run& run) const {
  const InnerOrder order =
      plan.stream().groups[run.group_index].source.layout.inner_order;
  return context_->regions->At(context_->region_key,
                               plan.SourceOffset(run, {blocks_}),
                               run.shape.BytesIn(order));
}

void SourceTransfer::ComputeDigests(RectanglePlan& plan,
                                    RectangleDone& done) const {
  done.digests.assign(plan.num_spans(), 0);
  if (!context_->limits.digests) return;
  if (SumAppended(plan, done.digests)) {
    ++context_->stats->kept_digests;
    return;
  }
  ++context_->stats->read_digests;
  // Block by block, as the destination copies them.
  const std::vector<Copy> copies = plan.Merge({blocks_}, {args_.ticket.blocks});
  const std::byte* base = context_->regions->At(context_->region_key, 0, 0);
  for (size_t i = 0; i < copies.size(); ++i) {
    const Copy& copy = copies[i];
    const RectanglePlan::Piece parts = plan.PieceOf(copy);
    if (!parts.runs.empty()) {
      const PieceArgs args{
          .from = context_->regions->At(context_->region_key,
                                        copy.source_offset, copy.size_bytes),
          .size_bytes = copy.size_bytes,
          .runs = parts.runs,
          .token = parts.token,
          .next = i + 1 < copies.size() ? base + copies[i + 1].source_offset
                                        : nullptr};
      done.digests[parts.span] += BestPieceKernels().digest(args);
      continue;
    }
    for (uint32_t r = 0; r < copy.num_runs; ++r) {
      const RectanglePlan::Run run = plan.run(copy.first_run + r);
      const InnerOrder order =
          plan.stream().groups[run.group_index].source.layout.inner_order;
      done.digests[parts.span] +=
          DigestRun(run.shape, order, SourceBytes(plan, run));
    }
  }
}

// From what was kept when the KV was written; false unless all of it was.
bool SourceTransfer::SumAppended(const RectanglePlan& plan,
                                 std::vector<uint64_t>& digests) const {
  if (context_->append_digests == nullptr) return false;
  const Rectangle& r = plan.rectangle();
  const uint32_t block_tokens = plan.stream().source_block_tokens;
  if (r.t0 % block_tokens != 0) return false;
  std::vector<uint64_t> sums(digests.size(), 0);
  for (uint32_t t = r.t0; t < r.t1; t += block_tokens) {
    for (const StreamGroup& group : plan.stream().groups) {
      const AppendDigests::Query query{
          .rank = plan.stream().source_rank,
          .group = &group,
          .block = blocks_[t / block_tokens],
          .num_tokens = std::min(block_tokens, r.t1 - t),
          .l0 = r.l0,
          .l1 = r.l1};
      if (!context_->append_digests->Add(query, sums[plan.SpanOfToken(t)])) {
        return false;
      }
    }
  }
  digests = std::move(sums);
  return true;
}

bool SourceTransfer::PostNext() {
  if (sending_.has_value()) return PostMessages();
  if (queue_.empty() || (puts_.has_value() && !puts_->CanPost())) return false;
  Pending pending = std::move(queue_.front());
  queue_.pop_front();
  const StreamPlan& stream = streams_[pending.stream_index].plan;
  RectanglePlan plan(stream, pending.done.rectangle);
  ComputeDigests(plan, pending.done);
  result_.bytes += plan.wire_bytes();
  if (grant_.mode == TransferMode::kStream) {
    sending_.emplace(Sending{std::move(pending), std::move(plan)});
    return true;
  }
  if (puts_.has_value()) return PostPut(std::move(pending), plan);
  const Rectangle& r = pending.done.rectangle;
  const uint32_t block_tokens = context_->manifest->block_tokens;
  pending.done.source_blocks.assign(
      blocks_.begin() + r.t0 / block_tokens,
      blocks_.begin() + (r.t1 + block_tokens - 1) / block_tokens);
  FinishRectangle(std::move(pending));
  return !queue_.empty();
}

bool SourceTransfer::PostPut(Pending pending, RectanglePlan& plan) {
  absl::Status status;
  if (puts_->staged()) {
    ++result_.copies;
    status = puts_->PostStaged(std::move(pending),
                               Gather(plan, 0, plan.wire_bytes()));
  } else {
    std::vector<PutPiece> pieces;
    for (const Copy& copy : plan.Merge({blocks_}, {args_.ticket.blocks})) {
      pieces.push_back(
          {.from = context_->regions->At(context_->region_key,
                                         copy.source_offset, copy.size_bytes),
           .size_bytes = copy.size_bytes,
           .remote_offset = copy.target_offset});
    }
    result_.copies += pieces.size();
    status = puts_->Post(std::move(pending), std::move(pieces));
  }
  if (!status.ok()) Drain(status);
  return state_ == State::kSending;
}

void SourceTransfer::FinishRectangle(Pending pending) {
  context_->send(peer(), id(), pending.done);
  unacked_.push_back(std::move(pending));
  if (!rectangle_timer_.armed()) {
    rectangle_timer_.Start(context_->NowMs(), context_->limits);
  }
}

uint64_t SourceTransfer::AckedBytes() const {
  uint64_t bytes = 0;
  for (const Stream& stream : streams_) bytes += stream.acked_bytes;
  return bytes;
}

// Wire bytes [offset, offset + size) of a rectangle.
std::vector<std::byte> SourceTransfer::Gather(const RectanglePlan& plan,
                                              uint64_t offset,
                                              uint64_t size) const {
  std::vector<std::byte> payload;
  payload.reserve(size);
  std::vector<std::byte> canonical;
  for (uint32_t i = plan.FindRun(offset); payload.size() < size; ++i) {
    const RectanglePlan::Run run = plan.run(i);
    const StreamGroup& group = plan.stream().groups[run.group_index];
    const InnerOrder order = group.source.layout.inner_order;
    const std::byte* bytes = SourceBytes(plan, run);
    if (order != group.wire_order()) {
      canonical.resize(run.wire_bytes);
      CopyRun(run.shape, order, bytes, group.wire_order(), canonical.data());
      bytes = canonical.data();
    }
    const uint64_t skip = offset + payload.size() - run.wire_offset;
    const uint64_t count =
        std::min(run.wire_bytes - skip, size - payload.size());
    payload.insert(payload.end(), bytes + skip, bytes + skip + count);
  }
  return payload;
}

bool SourceTransfer::PostMessages() {
  Sending& sending = *sending_;
  const RectangleDone& done = sending.pending.done;
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    const uint64_t total = sending.plan.wire_bytes();
    if (sending.offset == total) {
      Pending pending = std::move(sending.pending);
      sending_.reset();
      FinishRectangle(std::move(pending));
      return true;
    }
    const uint64_t size =
        std::min<uint64_t>(grant_.stream_message_bytes, total - sending.offset);
    const uint64_t acked = std::min(posted_bytes_, AckedBytes());
    if (posted_bytes_ - acked + size > context_->limits.stream_window_bytes &&
        posted_bytes_ > acked) {
      return false;
    }
    DataHeader header;
    header.transfer_id = id();
    header.from_generation = context_->manifest->generation;
    header.to_generation = args_.ticket.generation;
    header.source_rank = done.source_rank;
    header.target_rank = done.target_rank;
    header.index = done.index;
    header.rectangle = done.rectangle;
    header.offset = sending.offset;
    absl::StatusOr<OperationId> operation = link_->transport->StartWrite(
        link_->link, header, Gather(sending.plan, sending.offset, size));
    if (!operation.ok()) {
      Drain(operation.status());
      return false;
    }
    operations_.push_back(*operation);
    ++result_.copies;
    posted_bytes_ += size;
    sending.offset += size;
  }
  return true;
}

void SourceTransfer::PollOperations() {
  for (size_t i = 0; i < operations_.size();) {
    const std::optional<absl::Status> status =
        link_->transport->Poll(operations_[i]);
    if (!status.has_value()) {
      ++i;
      continue;
    }
    operations_[i] = operations_.back();
    operations_.pop_back();
    if (!status->ok() && state_ == State::kSending) {
      endpoint_failed_ = true;
      Drain(absl::UnavailableError(
          absl::StrCat("write failed: ", status->message())));
    }
  }
  if (!puts_.has_value()) return;
  const absl::Status put = puts_->Poll();
  unproven_ = puts_->unproven();
  if (state_ != State::kSending) return;
  while (std::optional<Pending> landed = puts_->TakeLanded()) {
    FinishRectangle(*std::move(landed));
  }
  if (!put.ok()) {
    endpoint_failed_ = true;
    Drain(absl::UnavailableError(absl::StrCat("put failed: ", put.message())));
  }
}

bool SourceTransfer::Drained() const {
  return operations_.empty() && (!puts_.has_value() || puts_->idle());
}

void SourceTransfer::Drain(const absl::Status& reason) {
  SLUICE_CHECK(state_ == State::kSending);
  state_ = State::kDraining;
  reason_ = reason;
  drain_deadline_ms_ = context_->NowMs() + context_->limits.drain_timeout_ms;
  queue_.clear();
  unacked_.clear();
  rectangle_timer_.Stop();
  MaybeFinishDraining();
}

void SourceTransfer::MaybeFinishDraining() {
  if (!Drained()) return;
  if (!reason_.ok()) {
    if (endpoint_failed_ || unproven_) {
      context_->send(peer(), id(),
                     Abort{.code = reason_.code(),
                           .stopped = false,
                           .detail = std::string(reason_.message())});
    } else {
      context_->send(peer(), id(), Stopped{});
    }
  }
  End(reason_);
}

void SourceTransfer::EndUnposted(const absl::Status& reason,
                                 bool tell_destination) {
  if (tell_destination && !peer_lost_) {
    context_->send(peer(), id(),
                   Abort{.code = reason.code(),
                         .stopped = true,
                         .detail = std::string(reason.message())});
  }
  End(reason);
}

void SourceTransfer::End(const absl::Status& status) {
  SLUICE_CHECK(!ended() && Drained());
  state_ = State::kEnded;
  result_.state = StateOf(status.code());
  result_.status = status;
  const int64_t now_us = context_->clock->NowMicros();
  result_.elapsed_us = now_us - started_us_;
  if (status.ok()) result_.exposed_us = now_us - all_offered_us_;
  claim_timer_.Stop();
  rectangle_timer_.Stop();
  // Only what answers repeats is kept.
  sending_.reset();
  puts_.reset();
  queue_ = {};
  unacked_ = {};
  streams_ = {};
  blocks_ = {};
  final_tokens_ = {};
  queued_tokens_ = {};
  args_.ticket.blocks = {};
  if (!status.ok()) {
    attachment_.reset();
    attachment_timer_.Stop();
  }
  context_->CountEnd(TransferDirection::kSend, result_, payload_bytes_);
  MaybeSendAttachment();
  const OnTransferEnded on_ended = std::exchange(args_.on_ended, nullptr);
  if (on_ended) on_ended(id(), result_);
}

}  // namespace sluice::kvtransfer
