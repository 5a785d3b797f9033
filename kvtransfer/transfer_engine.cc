#include "kvtransfer/transfer_engine.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "kvtransfer/engine_core.h"
#include "kvtransfer/transfer_id.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {
namespace {

constexpr int kTokenBytes = 32;
constexpr uint32_t kMinDeadlineMs = 100;
constexpr uint32_t kMaxDeadlineMs = 600'000;

// Identity of this boot of this host; empty when the kernel does not tell.
std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

absl::Status CheckRegion(const LayoutManifest& manifest, uint64_t size_bytes) {
  for (const ReplicaManifest& replica : manifest.replicas) {
    for (const RankManifest& rank : replica.ranks) {
      for (const GroupManifest& group : rank.groups) {
        const uint64_t end =
            group.base_address + group.num_blocks * group.block_stride_bytes;
        if (end <= size_bytes) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("group ", group.id, " ends at ", end,
                         " of a region of ", size_bytes, " bytes"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMemoryKind(const LayoutManifest& manifest,
                             const std::string& kind) {
  for (const ReplicaManifest& replica : manifest.replicas) {
    for (const RankManifest& rank : replica.ranks) {
      for (const GroupManifest& group : rank.groups) {
        if (group.memory_kind == kind) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("group ", group.id, " lies in ", group.memory_kind,
                         " memory, its region in ", kind));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStaging(const LayoutManifest& manifest,
                          const StagingArea& area, uint64_t size_bytes) {
  if (area.num_slots == 0) return absl::OkStatus();
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat(area.num_slots, " staging slots of ", area.slot_bytes,
                     " bytes at ", area.offset, " ", why));
  };
  if (area.num_slots > kMaxStagingSlots || area.slot_bytes % 64 != 0 ||
      area.offset % 64 != 0) {
    return bad("are too many or not aligned to 64");
  }
  if (area.offset > size_bytes ||
      area.slot_bytes > (size_bytes - area.offset) / area.num_slots) {
    return bad("are outside the region");
  }
  const absl::Status blocks = CheckRegion(manifest, area.offset);
  return blocks.ok() ? blocks : bad("overlap the blocks");
}

absl::Status CheckDeadline(uint32_t deadline_ms) {
  if (deadline_ms >= kMinDeadlineMs && deadline_ms <= kMaxDeadlineMs) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("transfer deadline must be in [", kMinDeadlineMs, ", ",
                   kMaxDeadlineMs, "] ms, got ", deadline_ms));
}

// CheckOffer() without the count; `reason` names a refusal's cause.
absl::Status JudgeOffer(const LayoutManifest& ours,
                        const std::vector<PeerInfo>& peers,
                        const PeerOffer& theirs, uint64_t to_generation,
                        std::string* reason) {
  *reason = "generation";
  if (to_generation != 0 && to_generation != ours.generation) {
    return absl::AbortedError(absl::StrCat("stale generation ", to_generation,
                                           ", current ", ours.generation));
  }
  // What speaks the protocol otherwise than this version does.
  *reason = "version";
  RETURN_IF_ERROR(ValidateManifest(theirs.manifest));
  if (theirs.manifest.worker == ours.worker) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer has our own name ", ours.worker));
  }
  for (const std::string* token : {&theirs.shm_token, &theirs.ucx_token}) {
    if (token->size() != kTokenBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "pair token has ", token->size(), " bytes, want ", kTokenBytes));
    }
  }
  *reason = "generation";
  for (const PeerInfo& peer : peers) {
    if (peer.worker == theirs.manifest.worker &&
        peer.generation > theirs.manifest.generation) {
      return absl::AbortedError(absl::StrCat("stale generation ",
                                             theirs.manifest.generation,
                                             ", current ", peer.generation));
    }
  }
  return CheckCompatible(ours, theirs.manifest, reason);
}

}  // namespace

TransferEngine::TransferEngine(std::unique_ptr<Core> core)
    : core_(std::move(core)) {}

TransferEngine::~TransferEngine() = default;

absl::StatusOr<std::unique_ptr<TransferEngine>> TransferEngine::Create(
    EngineOptions options) {
  SLUICE_CHECK(options.clock != nullptr && options.control != nullptr);
  RETURN_IF_ERROR(ValidateManifest(options.manifest));
  RETURN_IF_ERROR(CheckRegion(options.manifest, options.region.size_bytes));
  RETURN_IF_ERROR(
      CheckMemoryKind(options.manifest, options.region.memory_kind));
  RETURN_IF_ERROR(CheckStaging(options.manifest, options.staging,
                               options.region.size_bytes));
  if (options.stream_message_bytes < (1 << 10) ||
      options.stream_message_bytes > (256 << 10) ||
      options.stream_message_bytes % 64 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stream_message_bytes must be a multiple of 64 in [1024, 262144], got ",
        options.stream_message_bytes));
  }
  auto core = std::make_unique<Core>(std::move(options));
  RETURN_IF_ERROR(core->Start());
  return std::unique_ptr<TransferEngine>(new TransferEngine(std::move(core)));
}

absl::StatusOr<Ticket> TransferEngine::StartReceive(ReceiveArgs args) {
  const LayoutManifest& manifest = core_->options.manifest;
  if (core_->shutting_down.load()) return absl::UnavailableError("draining");
  RETURN_IF_ERROR(CheckDeadline(args.deadline_ms));
  RETURN_IF_ERROR(CheckBlockList({.manifest = &manifest,
                                  .replica = args.replica,
                                  .blocks = args.blocks,
                                  .skip_tokens = args.skip_tokens,
                                  .num_tokens = args.num_tokens,
                                  .is_target = true}));
  Ticket ticket;
  ticket.transfer_id = *ParseTransferId(RandomBytes(16));
  ticket.capability = *ParseCapability(RandomBytes(16));
  ticket.worker = manifest.worker;
  ticket.generation = manifest.generation;
  ticket.replica = args.replica;
  ticket.manifest_id = manifest.manifest_id;
  ticket.blocks = args.blocks;
  std::fill_n(ticket.blocks.begin(), args.skip_tokens / manifest.block_tokens,
              0);
  ticket.skip_tokens = args.skip_tokens;
  ticket.num_tokens = args.num_tokens;
  ticket.remaining_ms = args.deadline_ms;
  core_->inbox.Push([core = core_.get(), ticket, args = std::move(args)] {
    core->StartReceive(ticket, args);
  });
  return ticket;
}

absl::Status TransferEngine::StartSend(SendArgs args) {
  const LayoutManifest& manifest = core_->options.manifest;
  const Ticket& ticket = args.ticket;
  if (core_->shutting_down.load()) return absl::UnavailableError("draining");
  if (args.replica >= manifest.replicas.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "replica ", args.replica, ", has ", manifest.replicas.size()));
  }
  if (ticket.worker.empty() || ticket.worker == manifest.worker ||
      ticket.manifest_id.size() != 32 || ticket.generation == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("ticket of worker \"", ticket.worker, "\" generation ",
                     ticket.generation, " is malformed"));
  }
  if (ticket.num_tokens == 0 || ticket.num_tokens > kMaxDigestTokens ||
      ticket.skip_tokens >= ticket.num_tokens || ticket.remaining_ms == 0 ||
      ticket.remaining_ms > kMaxDeadlineMs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ticket of ", ticket.num_tokens, " tokens, skip ", ticket.skip_tokens,
        ", remaining ", ticket.remaining_ms, " ms is malformed"));
  }
  core_->inbox.Push(
      [core = core_.get(), args = std::move(args)] { core->StartSend(args); });
  return absl::OkStatus();
}

void TransferEngine::OfferRectangle(RectangleOffer offer) {
  core_->inbox.Push(
      [core = core_.get(), offer = std::move(offer)] { core->Offer(offer); });
}

void TransferEngine::SendAttachment(const TransferId& id, std::string bytes) {
  core_->inbox.Push([core = core_.get(), id, bytes = std::move(bytes)] {
    core->SendAttachment(id, bytes);
  });
}

void TransferEngine::Cancel(const TransferId& id, absl::Status cause) {
  SLUICE_CHECK(!cause.ok());
  core_->inbox.Push([core = core_.get(), id, cause = std::move(cause)] {
    core->Cancel(id, cause);
  });
}

PeerOffer TransferEngine::PrepareOffer() const {
  PeerOffer offer;
  offer.manifest = core_->options.manifest;
  offer.boot_id = BootId();
  offer.uid = static_cast<uint32_t>(getuid());
  offer.shm_token = RandomBytes(kTokenBytes);
  offer.ucx_token = RandomBytes(kTokenBytes);
  for (const auto& transport : core_->options.transports) {
    offer.modes.push_back(transport->mode());
    if (!core_->options.can_send) continue;
    if (transport->mode() == TransferMode::kPull) {
      offer.shm_socket = transport->address();
    } else {
      offer.ucx_address = transport->address();
    }
  }
  return offer;
}

absl::Status TransferEngine::CheckOffer(const PeerOffer& theirs,
                                        uint64_t to_generation) const {
  std::string reason;
  const auto peers = Peers();
  absl::Status status = JudgeOffer(core_->options.manifest, *peers, theirs,
                                   to_generation, &reason);
  if (!status.ok()) {
    core_->inbox.Push([core = core_.get(), reason = std::move(reason)] {
      core->CountRefusal(reason);
    });
  }
  return status;
}

void TransferEngine::Pair(const PeerOffer& ours, const PeerOffer& theirs) {
  core_->inbox.Push(
      [core = core_.get(), ours, theirs] { core->peers->Pair(ours, theirs); });
}

void TransferEngine::OnLinkUp(const std::string& worker) {
  core_->inbox.Push(
      [core = core_.get(), worker] { core->peers->OnControlUp(worker); });
}

void TransferEngine::OnLinkDown(const std::string& worker,
                                absl::Status status) {
  core_->inbox.Push([core = core_.get(), worker, status = std::move(status)] {
    core->peers->OnControlDown(worker, status);
  });
}

void TransferEngine::OnMessage(const std::string& worker,
                               ControlMessage message) {
  core_->inbox.Push([core = core_.get(), worker, message = std::move(message)] {
    core->OnMessage(worker, message);
  });
}

SnapshotRef<std::vector<PeerInfo>> TransferEngine::Peers() const {
  return core_->peer_infos.Get();
}

SnapshotRef<TransferStats> TransferEngine::Stats() const {
  return core_->stats_snapshot.Get();
}

void TransferEngine::Shutdown() {
  core_->inbox.Push([core = core_.get()] { core->Shutdown(); });
}

bool TransferEngine::drained() const {
  return core_->drained.load(std::memory_order_acquire);
}

int64_t TransferEngine::RunOnce(bool may_sleep) {
  return core_->RunOnce(may_sleep);
}

std::vector<int> TransferEngine::Descriptors() const {
  std::vector<int> descriptors;
  for (const auto& transport : core_->options.transports) {
    if (transport->event_fd() >= 0) {
      descriptors.push_back(transport->event_fd());
    }
  }
  return descriptors;
}

void TransferEngine::SetWake(std::function<void()> wake) {
  MutexLock lock(core_->wake_mu);
  core_->wake = std::move(wake);
}

void TransferEngine::CheckInvariants() const { core_->CheckInvariants(); }

}  // namespace sluice::kvtransfer
