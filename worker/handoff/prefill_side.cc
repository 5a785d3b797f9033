#include "worker/handoff/prefill_side.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvtransfer/transfer_id.h"
#include "worker/handoff/first_tokens.h"

namespace sluice::worker {

using kvtransfer::Rectangle;
using kvtransfer::TransferId;
using kvtransfer::TransferResult;
using kvtransfer::TransferState;

namespace {

// Offers of one chunk: enough to hide the copy behind the compute of the next
// layers, few enough that messages cost nothing.
constexpr uint32_t kOffersPerChunk = 8;

}  // namespace

PrefillSide::PrefillSide(kvtransfer::TransferEngine& transfers, uint32_t layers,
                         uint32_t block_tokens)
    : transfers_(transfers),
      layers_(layers),
      block_tokens_(block_tokens),
      layers_per_offer_((layers + kOffersPerChunk - 1) / kOffersPerChunk) {}

absl::Status PrefillSide::Start(
    RequestKey key, const kvtransfer::Ticket& ticket,
    std::function<void(const TransferResult&)> on_ended) {
  {
    MutexLock lock(mu_);
    // Offers are told apart by their transfer: a second request with the same
    // ticket would put its blocks under the first one's tokens.
    for (const auto& [other, sending] : sending_) {
      if (sending.transfer == ticket.transfer_id) {
        return absl::AlreadyExistsError(
            absl::StrCat("transfer ", kvtransfer::ToHex(ticket.transfer_id),
                         " is already being sent"));
      }
    }
    Sending& sending = sending_[key];
    sending.transfer = ticket.transfer_id;
    sending.skip_tokens = ticket.skip_tokens;
    sending.offered_tokens = ticket.skip_tokens;
  }
  kvtransfer::SendArgs args;
  args.ticket = ticket;
  args.on_ended = [this, key, on_ended = std::move(on_ended)](
                      const TransferId&, const TransferResult& result) {
    if (on_ended) on_ended(result);  // before the request can finish
    OnTransferEnded(key, result);
  };
  absl::Status status = transfers_.StartSend(std::move(args));
  if (!status.ok()) {
    MutexLock lock(mu_);
    sending_.erase(key);
  }
  return status;
}

void PrefillSide::Abandon(RequestKey key, const absl::Status& cause) {
  TransferId transfer;
  bool completed = false;
  {
    MutexLock lock(mu_);
    const auto it = sending_.find(key);
    if (it == sending_.end()) return;
    transfer = it->second.transfer;
    completed = it->second.completed;
    it->second.abandoned = true;
    if (completed) sending_.erase(it);
  }
  if (completed) {
    // The other side has the KV and waits for tokens: none will come.
    transfers_.SendAttachment(transfer, EncodeFirstTokens(FirstTokens()));
  } else {
    transfers_.Cancel(transfer, cause);
  }
}

void PrefillSide::OnChunkLaunched(const PromptChunk& chunk) {
  MutexLock lock(mu_);
  const auto it = sending_.find(chunk.key);
  if (it == sending_.end()) return;
  Sending& sending = it->second;
  sending.chunk = chunk;
  sending.in_step = true;
  sending.offered_layers = 0;
  // What our own prefix cache already held is final in every layer.
  if (chunk.t0 > sending.offered_tokens) {
    Offer(
        sending,
        {.t0 = sending.offered_tokens, .t1 = chunk.t0, .l0 = 0, .l1 = layers_});
    sending.offered_tokens = chunk.t0;
  }
}

void PrefillSide::OnLayersDone(uint64_t step, uint32_t layers_done) {
  if (layers_done % layers_per_offer_ != 0) return;
  MutexLock lock(mu_);
  for (auto& [key, sending] : sending_) {
    if (sending.in_step && sending.chunk.step == step) {
      OfferLayers(sending, layers_done);
    }
  }
}

void PrefillSide::OnChunkDone(RequestKey key, uint64_t step) {
  MutexLock lock(mu_);
  const auto it = sending_.find(key);
  if (it == sending_.end()) return;
  Sending& sending = it->second;
  if (!sending.in_step || sending.chunk.step != step) return;
  OfferLayers(sending, layers_);
  sending.in_step = false;
  sending.offered_tokens = std::max(sending.offered_tokens, sending.chunk.t1);
}

void PrefillSide::OnFirstTokens(RequestKey key, const FirstTokens& first) {
  MutexLock lock(mu_);
  const auto it = sending_.find(key);
  if (it == sending_.end()) return;
  transfers_.SendAttachment(it->second.transfer, EncodeFirstTokens(first));
  it->second.sent_first = true;
  if (it->second.completed) sending_.erase(it);
}

void PrefillSide::OnTransferEnded(RequestKey key,
                                  const TransferResult& result) {
  {
    MutexLock lock(mu_);
    const auto it = sending_.find(key);
    if (it != sending_.end()) {
      Sending& sending = it->second;
      sending.completed = true;
      // The prompt failed while the last bytes were on their way.
      if (sending.abandoned && result.state == TransferState::kCompleted) {
        transfers_.SendAttachment(sending.transfer,
                                  EncodeFirstTokens(FirstTokens()));
      }
      if (sending.sent_first || sending.abandoned ||
          result.state != TransferState::kCompleted) {
        sending_.erase(it);
      }
    }
  }
  if (result.state != TransferState::kCompleted) {
    engine_->Cancel(key, result.status.ok() ? absl::CancelledError("cancelled")
                                            : result.status);
  }
  engine_->ReleaseHeld(key);
}

void PrefillSide::OfferLayers(Sending& sending, uint32_t layers_done) {
  const uint32_t t0 = std::max(sending.chunk.t0, sending.skip_tokens);
  if (layers_done <= sending.offered_layers || t0 >= sending.chunk.t1) return;
  Offer(sending, {.t0 = t0,
                  .t1 = sending.chunk.t1,
                  .l0 = sending.offered_layers,
                  .l1 = layers_done});
  sending.offered_layers = layers_done;
}

void PrefillSide::Offer(const Sending& sending, Rectangle rectangle) {
  const uint32_t first = rectangle.t0 / block_tokens_;
  const uint32_t end = (rectangle.t1 + block_tokens_ - 1) / block_tokens_;
  transfers_.OfferRectangle(
      {.transfer_id = sending.transfer,
       .rectangle = rectangle,
       .blocks = std::vector<uint32_t>(sending.chunk.blocks.begin() + first,
                                       sending.chunk.blocks.begin() + end)});
}

}  // namespace sluice::worker
