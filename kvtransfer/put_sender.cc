#include "kvtransfer/put_sender.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice::kvtransfer {
namespace {

// Rectangles written in place at once: one is flushed while the next is
// posted.
constexpr size_t kMaxInPlace = 4;

}  // namespace

PutSender::PutSender(TransferContext* context, const DataLink& link,
                     const Grant& grant)
    : context_(context), link_(link) {
  for (const StagingSlot& slot : grant.slots) {
    slots_.push_back({slot, std::nullopt});
  }
}

PutSender::~PutSender() { SLUICE_CHECK(idle()); }

bool PutSender::CanPost() const {
  if (unproven()) return false;
  if (!staged()) return in_flight_.size() < kMaxInPlace;
  return std::any_of(slots_.begin(), slots_.end(),
                     [](const Slot& slot) { return !slot.holds.has_value(); });
}

absl::Status PutSender::Start(InFlight in_flight,
                              std::vector<PutPiece> pieces) {
  absl::StatusOr<OperationId> operation =
      link_.transport->StartPut(link_.link, std::move(pieces));
  if (!operation.ok()) return operation.status();
  context_->regions->StartOperation(context_->region_key);
  ++num_open_;
  in_flight.operation = *operation;
  in_flight_.push_back(std::move(in_flight));
  return absl::OkStatus();
}

absl::Status PutSender::Post(PendingRectangle rectangle,
                             std::vector<PutPiece> pieces) {
  return Start({std::move(rectangle), {}, std::nullopt}, std::move(pieces));
}

absl::Status PutSender::PostStaged(PendingRectangle rectangle,
                                   std::vector<std::byte> bytes) {
  const auto free =
      std::find_if(slots_.begin(), slots_.end(),
                   [](const Slot& slot) { return !slot.holds.has_value(); });
  SLUICE_CHECK(free != slots_.end() && bytes.size() <= free->where.size_bytes);
  rectangle.done.slot = static_cast<uint32_t>(free - slots_.begin());
  free->holds = rectangle.done;
  // Moving a vector leaves its bytes where they are.
  std::vector<PutPiece> pieces = {
      {bytes.data(), bytes.size(), free->where.offset}};
  return Start({std::move(rectangle), std::move(bytes), std::nullopt},
               std::move(pieces));
}

void PutSender::OnCredit(const Credit& credit) {
  if (credit.slot >= slots_.size()) return;
  std::optional<RectangleDone>& holds = slots_[credit.slot].holds;
  if (holds.has_value() && holds->source_rank == credit.source_rank &&
      holds->target_rank == credit.target_rank &&
      holds->index == credit.index) {
    holds.reset();
  }
}

void PutSender::OnAck(const Ack& ack) {
  for (Slot& slot : slots_) {
    if (slot.holds.has_value() && slot.holds->source_rank == ack.source_rank &&
        slot.holds->target_rank == ack.target_rank &&
        slot.holds->index < ack.next_index) {
      slot.holds.reset();
    }
  }
}

absl::Status PutSender::Poll() {
  for (InFlight& in_flight : in_flight_) {
    if (!in_flight.operation.has_value()) continue;
    const std::optional<absl::Status> status =
        link_.transport->Poll(*in_flight.operation);
    if (!status.has_value()) continue;
    in_flight.operation.reset();
    in_flight.buffer = {};
    --num_open_;
    context_->regions->EndOperation(context_->region_key);
    if (failed_.ok()) failed_ = *status;
  }
  return failed_;
}

std::optional<PendingRectangle> PutSender::TakeLanded() {
  if (unproven() || in_flight_.empty() ||
      in_flight_.front().operation.has_value()) {
    return std::nullopt;
  }
  PendingRectangle rectangle = std::move(in_flight_.front().rectangle);
  in_flight_.pop_front();
  return rectangle;
}

}  // namespace sluice::kvtransfer
