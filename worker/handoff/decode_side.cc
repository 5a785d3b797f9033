#include "worker/handoff/decode_side.h"

#include <utility>
#include <vector>

#include "worker/handoff/first_tokens.h"

namespace sluice::worker {

using kvtransfer::TransferId;
using kvtransfer::TransferResult;
using kvtransfer::TransferState;

void DecodeSide::Expect(RequestKey key, RemotePrompt prompt) {
  MutexLock lock(mu_);
  waiting_[key].prompt = std::move(prompt);
}

void DecodeSide::Forget(RequestKey key) {
  MutexLock lock(mu_);
  const auto it = waiting_.find(key);
  // A running transfer still has to tell the engine that its blocks are free.
  if (it != waiting_.end() && !it->second.transfer.has_value()) {
    waiting_.erase(it);
  }
}

void DecodeSide::OnReserved(const RemoteReservation& reservation) {
  const RequestKey key = reservation.key;
  kvtransfer::ReceiveArgs args;
  std::function<void(const kvtransfer::Ticket&)> on_ticket;
  {
    MutexLock lock(mu_);
    const Waiting& waiting = waiting_[key];
    args.expected_source = waiting.prompt.source;
    args.deadline_ms = waiting.prompt.deadline_ms;
    on_ticket = waiting.prompt.on_ticket;
  }
  args.blocks = reservation.blocks;
  args.skip_tokens = reservation.skip_tokens;
  args.num_tokens = reservation.num_tokens;
  args.on_ended = [this, key](const TransferId&, const TransferResult& result) {
    OnTransferEnded(key, result);
  };
  args.on_released = [this, key](const TransferId&) {
    engine_->RemoteReleased(key);
  };
  args.on_attachment = [this, key](const TransferId&,
                                   const absl::StatusOr<std::string>& bytes) {
    OnAttachment(key, bytes);
  };
  const absl::StatusOr<kvtransfer::Ticket> ticket =
      transfers_.StartReceive(std::move(args));
  if (!ticket.ok()) {
    Fail(key, ticket.status());
    return;
  }
  {
    // The transfer may have ended already; then its entry is gone.
    MutexLock lock(mu_);
    const auto it = waiting_.find(key);
    if (it != waiting_.end()) it->second.transfer = ticket->transfer_id;
  }
  if (on_ticket) on_ticket(*ticket);
}

void DecodeSide::OnWithdrawn(RequestKey key, const absl::Status& cause) {
  std::optional<TransferId> running;
  {
    MutexLock lock(mu_);
    const auto it = waiting_.find(key);
    if (it == waiting_.end()) return;
    it->second.withdrawn = true;
    if (!it->second.received) running = it->second.transfer;
  }
  if (running.has_value()) {
    transfers_.Cancel(*running, cause);  // OnTransferEnded() follows
  } else {
    Fail(key, cause);
  }
}

void DecodeSide::OnTransferEnded(RequestKey key, const TransferResult& result) {
  std::function<void(const TransferResult&)> on_transfer;
  std::optional<FirstTokens> first;
  bool completed = result.state == TransferState::kCompleted;
  absl::Status cause = result.status;
  {
    MutexLock lock(mu_);
    const auto it = waiting_.find(key);
    if (it == waiting_.end()) return;
    on_transfer = it->second.prompt.on_transfer;
    if (it->second.withdrawn) completed = false;
    if (completed && it->second.bad_first.has_value()) {
      completed = false;
      cause = *it->second.bad_first;
    }
    if (completed) {
      it->second.received = true;
      first = std::move(it->second.first);
      if (first.has_value()) waiting_.erase(it);
    }
  }
  if (on_transfer) on_transfer(result);
  if (!completed) {
    Fail(key, cause.ok() ? absl::CancelledError("cancelled") : cause,
         result.quarantined);
  } else if (first.has_value()) {
    engine_->RemoteReady(key, *std::move(first));
  }
}

void DecodeSide::OnAttachment(RequestKey key,
                              const absl::StatusOr<std::string>& bytes) {
  absl::StatusOr<FirstTokens> first =
      bytes.ok() ? DecodeFirstTokens(*bytes) : bytes.status();
  {
    MutexLock lock(mu_);
    const auto it = waiting_.find(key);
    if (it == waiting_.end()) return;
    if (first.ok() && !it->second.received) {
      it->second.first = *std::move(first);
      return;
    }
    if (!first.ok() && !it->second.received) {
      it->second.bad_first = first.status();  // for when the transfer ends
      return;
    }
    if (first.ok()) waiting_.erase(it);
  }
  if (first.ok()) {
    engine_->RemoteReady(key, *std::move(first));
  } else {
    Fail(key, first.status());
  }
}

void DecodeSide::Fail(RequestKey key, const absl::Status& cause,
                      bool quarantined) {
  bool recompute = false;
  {
    MutexLock lock(mu_);
    const auto it = waiting_.find(key);
    if (it == waiting_.end()) return;  // somebody told the engine already
    recompute = it->second.prompt.recompute && !it->second.withdrawn;
    waiting_.erase(it);
  }
  if (quarantined) {
    engine_->RemoteQuarantined(key, cause, recompute);
  } else {
    engine_->RemoteFailed(key, cause, recompute);
  }
}

}  // namespace sluice::worker
