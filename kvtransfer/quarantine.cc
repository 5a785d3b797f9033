#include "kvtransfer/quarantine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvtransfer/staging_table.h"

namespace sluice::kvtransfer {

void Quarantine::Add(QuarantinedTransfer transfer) {
  SLUICE_CHECK(Find(transfer.id) == nullptr);
  Entry entry;
  entry.transfer = std::move(transfer);
  entry.since_us = context_->clock->NowMicros();
  entry.escalate_ms = context_->NowMs() + context_->limits.stop_timeout_ms;
  if (!entry.transfer.stop_cause.empty()) {
    entry.stop_timer.Start(context_->NowMs(), context_->limits);
  }
  entries_.push_back(std::move(entry));
  Count();
}

Quarantine::Entry* Quarantine::Find(const TransferId& id) {
  for (Entry& entry : entries_) {
    if (entry.transfer.id == id) return &entry;
  }
  return nullptr;
}

// Another generation of the source knows nothing of what the old one wrote.
Quarantine::Entry* Quarantine::FindOf(const TransferId& id,
                                      const std::string& source,
                                      uint64_t generation) {
  Entry* entry = Find(id);
  if (entry == nullptr || entry->transfer.source != source ||
      entry->transfer.generation != generation) {
    return nullptr;
  }
  return entry;
}

void Quarantine::SetOnReleased(const TransferId& id,
                               std::function<void()> on_released) {
  Entry* entry = Find(id);
  SLUICE_CHECK(entry != nullptr && !entry->on_released);
  entry->on_released = std::move(on_released);
}

void Quarantine::OnStopped(const TransferId& id, const std::string& source,
                           uint64_t generation) {
  Entry* entry = FindOf(id, source, generation);
  if (entry != nullptr) entry->fence = Fence::kStopped;
}

void Quarantine::OnUnproven(const TransferId& id, const std::string& source,
                            uint64_t generation) {
  Entry* entry = FindOf(id, source, generation);
  if (entry != nullptr) entry->stop_timer.Stop();
}

void Quarantine::OnFenced(LinkId link, Fence fence) {
  for (Entry& entry : entries_) {
    if (entry.transfer.link == link) entry.fence = fence;
  }
}

void Quarantine::OnPeerUp(const std::string& worker, uint64_t generation) {
  for (Entry& entry : entries_) {
    QuarantinedTransfer& transfer = entry.transfer;
    if (transfer.source != worker || transfer.generation != generation) {
      continue;
    }
    if (transfer.stop_cause.empty()) transfer.stop_cause = "transfer ended";
    entry.stop_timer.Start(context_->NowMs(), context_->limits);
    context_->send(worker, transfer.id, Stop{transfer.stop_cause});
  }
}

void Quarantine::OnPeerLost(const std::string& worker) {
  for (Entry& entry : entries_) {
    if (entry.transfer.source != worker) continue;
    entry.transfer.link_open = false;
    entry.stop_timer.Stop();
  }
}

void Quarantine::OnTick() {
  const int64_t now = context_->NowMs();
  for (Entry& entry : entries_) {
    const QuarantinedTransfer& transfer = entry.transfer;
    if (entry.stop_timer.Fire(now, context_->limits)) {
      ++context_->stats->resent_messages;
      context_->send(transfer.source, transfer.id, Stop{transfer.stop_cause});
    }
    if (entry.fence.has_value() || !transfer.link_open ||
        now < entry.escalate_ms) {
      continue;
    }
    entry.transfer.link_open = false;
    context_->lose_peer(
        transfer.source,
        absl::UnavailableError(absl::StrCat(
            "peer ", transfer.source, " did not prove within ",
            context_->limits.stop_timeout_ms, " ms that it writes no more")));
  }
}

void Quarantine::Work() {
  for (size_t i = 0; i < entries_.size();) {
    if (!entries_[i].fence.has_value()) {
      ++i;
      continue;
    }
    const Entry entry = std::move(entries_[i]);
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(i));
    context_->staging->Return(entry.transfer.slots);
    Count();
    if (context_->observer != nullptr) {
      context_->observer->OnReleased(
          *entry.fence, context_->clock->NowMicros() - entry.since_us);
    }
    if (entry.on_released) entry.on_released();
  }
}

uint64_t Quarantine::num_blocks() const {
  uint64_t count = 0;
  for (const Entry& entry : entries_) count += entry.transfer.num_blocks;
  return count;
}

uint64_t Quarantine::num_slots() const {
  uint64_t count = 0;
  for (const Entry& entry : entries_) count += entry.transfer.slots.size();
  return count;
}

void Quarantine::Count() {
  context_->stats->quarantined_blocks = num_blocks();
  context_->stats->quarantined_slots = num_slots();
}

}  // namespace sluice::kvtransfer
