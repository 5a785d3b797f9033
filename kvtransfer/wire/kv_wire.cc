#include "kvtransfer/wire/kv_wire.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("kv message: ", parts...));
}

absl::StatusOr<TransferState> StateFromProto(v1::TransferState state) {
  switch (state) {
    case v1::COMPLETED:
      return TransferState::kCompleted;
    case v1::TRANSFER_FAILED:
      return TransferState::kFailed;
    case v1::CANCELLED:
      return TransferState::kCancelled;
    case v1::EXPIRED:
      return TransferState::kExpired;
    default:
      return Bad("state ", static_cast<int>(state));
  }
}

absl::StatusOr<TransferMode> ModeFromProto(v1::TransferMode mode) {
  switch (mode) {
    case v1::PULL:
      return TransferMode::kPull;
    case v1::STREAM:
      return TransferMode::kStream;
    case v1::PUT:
      return TransferMode::kPut;
    default:
      return Bad("mode ", static_cast<int>(mode));
  }
}

absl::StatusOr<absl::StatusCode> CodeFromProto(int32_t code) {
  if (code < 0 || code > 16) return Bad("code ", code);
  return static_cast<absl::StatusCode>(code);
}

v1::Group ToProto(const GroupManifest& group) {
  v1::Group proto;
  proto.set_id(group.id);
  proto.set_kind(std::string(GroupKindName(group.kind)));
  proto.set_comps(group.comps);
  proto.set_heads_total(group.heads_total);
  proto.set_first_head(group.first_head);
  proto.set_num_heads(group.num_heads);
  proto.set_head_dim(group.head_dim);
  proto.set_dtype(std::string(KvDtypeName(group.dtype)));
  proto.set_block_stride_bytes(group.block_stride_bytes);
  proto.set_num_blocks(group.num_blocks);
  proto.set_base_address(group.base_address);
  proto.set_region_key(group.region_key);
  proto.set_memory_kind(group.memory_kind);
  proto.set_inner_order(group.inner_order == InnerOrder::kCanonical
                            ? v1::CANONICAL
                            : v1::CPU_TILES);
  proto.set_token_group(group.token_group);
  return proto;
}

absl::StatusOr<GroupManifest> GroupFromProto(const v1::Group& proto) {
  GroupManifest group;
  group.id = proto.id();
  ASSIGN_OR_RETURN(group.kind, ParseGroupKind(proto.kind()));
  group.comps = proto.comps();
  group.heads_total = proto.heads_total();
  group.first_head = proto.first_head();
  group.num_heads = proto.num_heads();
  group.head_dim = proto.head_dim();
  ASSIGN_OR_RETURN(group.dtype, ParseKvDtype(proto.dtype()));
  if (proto.inner_order() != v1::CANONICAL &&
      proto.inner_order() != v1::CPU_TILES) {
    return Bad("group ", group.id, " inner_order ",
               static_cast<int>(proto.inner_order()));
  }
  group.inner_order = proto.inner_order() == v1::CANONICAL
                          ? InnerOrder::kCanonical
                          : InnerOrder::kCpuTiles;
  group.token_group = proto.token_group();
  group.block_stride_bytes = proto.block_stride_bytes();
  group.num_blocks = proto.num_blocks();
  group.base_address = proto.base_address();
  group.region_key = proto.region_key();
  group.memory_kind = proto.memory_kind();
  return group;
}

// Both Pair messages have the same fields.
template <typename Proto>
Proto OfferToProto(const PeerOffer& offer) {
  Proto proto;
  *proto.mutable_manifest() = ToProto(offer.manifest);
  proto.set_boot_id(offer.boot_id);
  proto.set_uid(offer.uid);
  for (const TransferMode mode : offer.modes) {
    proto.add_modes(static_cast<v1::TransferMode>(mode));
  }
  proto.set_shm_socket(offer.shm_socket);
  proto.set_shm_token(offer.shm_token);
  proto.set_ucx_address(offer.ucx_address);
  proto.set_ucx_token(offer.ucx_token);
  return proto;
}

template <typename Proto>
absl::StatusOr<PeerOffer> OfferFromProto(const Proto& proto) {
  PeerOffer offer;
  ASSIGN_OR_RETURN(offer.manifest, FromProto(proto.manifest()));
  offer.boot_id = proto.boot_id();
  offer.uid = proto.uid();
  for (const int mode : proto.modes()) {
    ASSIGN_OR_RETURN(const TransferMode native,
                     ModeFromProto(static_cast<v1::TransferMode>(mode)));
    offer.modes.push_back(native);
  }
  offer.shm_socket = proto.shm_socket();
  offer.shm_token = proto.shm_token();
  offer.ucx_address = proto.ucx_address();
  offer.ucx_token = proto.ucx_token();
  return offer;
}

// Fills the body of one KvMessage.
class BodyWriter {
 public:
  explicit BodyWriter(v1::KvMessage* out) : out_(*out) {}

  void operator()(const Heartbeat&) { out_.mutable_heartbeat(); }
  void operator()(const Claim& claim) {
    v1::Claim& proto = *out_.mutable_claim();
    proto.set_worker(claim.worker);
    proto.set_replica(claim.replica);
    proto.set_manifest_id(claim.manifest_id);
    proto.set_num_blocks(claim.num_blocks);
    proto.set_capability(ToBytes(claim.capability));
  }
  void operator()(const Grant& grant) {
    v1::Grant& proto = *out_.mutable_grant();
    proto.set_mode(static_cast<v1::TransferMode>(grant.mode));
    proto.set_stream_message_bytes(grant.stream_message_bytes);
    for (const StagingSlot& slot : grant.slots) {
      v1::StagingSlot& slot_proto = *proto.add_slots();
      slot_proto.set_region_key(slot.region_key);
      slot_proto.set_address(slot.offset);
      slot_proto.set_size_bytes(slot.size_bytes);
    }
  }
  void operator()(const Refuse& refuse) {
    v1::Refuse& proto = *out_.mutable_refuse();
    proto.set_state(static_cast<v1::TransferState>(refuse.state));
    proto.set_code(static_cast<int32_t>(refuse.code));
    proto.set_detail(refuse.detail);
  }
  void operator()(const RectangleDone& done) {
    v1::RectangleDone& proto = *out_.mutable_rectangle();
    proto.set_source_rank(done.source_rank);
    proto.set_target_rank(done.target_rank);
    proto.set_index(done.index);
    proto.set_t0(done.rectangle.t0);
    proto.set_t1(done.rectangle.t1);
    proto.set_l0(done.rectangle.l0);
    proto.set_l1(done.rectangle.l1);
    proto.set_last(done.last);
    proto.mutable_digests()->Add(done.digests.begin(), done.digests.end());
    proto.mutable_source_blocks()->Add(done.source_blocks.begin(),
                                       done.source_blocks.end());
    if (done.slot.has_value()) proto.set_slot(*done.slot);
  }
  void operator()(const Credit& credit) {
    v1::Credit& proto = *out_.mutable_credit();
    proto.set_slot(credit.slot);
    proto.set_source_rank(credit.source_rank);
    proto.set_target_rank(credit.target_rank);
    proto.set_index(credit.index);
  }
  void operator()(const Ack& ack) {
    v1::Ack& proto = *out_.mutable_ack();
    proto.set_source_rank(ack.source_rank);
    proto.set_target_rank(ack.target_rank);
    proto.set_next_index(ack.next_index);
    proto.set_bytes(ack.placed_bytes);
    proto.set_first(ack.attachment);
  }
  void operator()(const Stop& stop) {
    out_.mutable_stop()->set_cause(stop.cause);
  }
  void operator()(const Stopped&) { out_.mutable_stopped(); }
  void operator()(const Abort& abort) {
    out_.mutable_abort()->set_code(static_cast<int32_t>(abort.code));
    out_.mutable_abort()->set_stopped(abort.stopped);
  }
  void operator()(const Outcome& outcome) {
    v1::Outcome& proto = *out_.mutable_outcome();
    proto.set_state(static_cast<v1::TransferState>(outcome.state));
    proto.set_code(static_cast<int32_t>(outcome.code));
    proto.set_detail(outcome.detail);
  }
  void operator()(const Attachment& attachment) {
    // Bytes that are no FirstTokens would be a bug of the layer above; the
    // receiver refuses them.
    (void)out_.mutable_first()->ParseFromString(attachment.bytes);
  }

 private:
  v1::KvMessage& out_;
};

absl::StatusOr<ControlBody> ClaimFromProto(const v1::Claim& proto) {
  Claim claim;
  claim.worker = proto.worker();
  claim.replica = proto.replica();
  claim.manifest_id = proto.manifest_id();
  claim.num_blocks = proto.num_blocks();
  ASSIGN_OR_RETURN(claim.capability, ParseCapability(proto.capability()));
  return claim;
}

absl::StatusOr<ControlBody> GrantFromProto(const v1::Grant& proto) {
  if (proto.slots_size() > static_cast<int>(kMaxStagingSlots)) {
    return Bad("grant of ", proto.slots_size(), " staging slots, at most ",
               kMaxStagingSlots);
  }
  Grant grant;
  ASSIGN_OR_RETURN(grant.mode, ModeFromProto(proto.mode()));
  grant.stream_message_bytes = proto.stream_message_bytes();
  if (proto.slots_size() > 0 && grant.mode != TransferMode::kPut) {
    return Bad("staging slots in mode ", TransferModeName(grant.mode));
  }
  for (const v1::StagingSlot& slot : proto.slots()) {
    grant.slots.push_back({.region_key = slot.region_key(),
                           .offset = slot.address(),
                           .size_bytes = slot.size_bytes()});
  }
  return grant;
}

template <typename Native, typename Proto>
absl::StatusOr<ControlBody> VerdictFromProto(const Proto& proto) {
  Native native;
  ASSIGN_OR_RETURN(native.state, StateFromProto(proto.state()));
  ASSIGN_OR_RETURN(native.code, CodeFromProto(proto.code()));
  native.detail = proto.detail();
  return native;
}

absl::StatusOr<ControlBody> RectangleFromProto(const v1::RectangleDone& proto) {
  RectangleDone done;
  done.source_rank = proto.source_rank();
  done.target_rank = proto.target_rank();
  done.index = proto.index();
  done.rectangle = {proto.t0(), proto.t1(), proto.l0(), proto.l1()};
  done.last = proto.last();
  done.digests.assign(proto.digests().begin(), proto.digests().end());
  done.source_blocks.assign(proto.source_blocks().begin(),
                            proto.source_blocks().end());
  if (proto.has_slot()) done.slot = proto.slot();
  return done;
}

absl::StatusOr<ControlBody> AbortFromProto(const v1::Abort& proto) {
  Abort abort;
  ASSIGN_OR_RETURN(abort.code, CodeFromProto(proto.code()));
  abort.stopped = proto.stopped();
  return abort;
}

Credit CreditFromProto(const v1::Credit& proto) {
  return Credit{.slot = proto.slot(),
                .source_rank = proto.source_rank(),
                .target_rank = proto.target_rank(),
                .index = proto.index()};
}

Ack AckFromProto(const v1::Ack& proto) {
  return Ack{.source_rank = proto.source_rank(),
             .target_rank = proto.target_rank(),
             .next_index = proto.next_index(),
             .placed_bytes = proto.bytes(),
             .attachment = proto.first()};
}

absl::StatusOr<ControlBody> BodyFromProto(const v1::KvMessage& proto) {
  switch (proto.body_case()) {
    case v1::KvMessage::kClaim:
      return ClaimFromProto(proto.claim());
    case v1::KvMessage::kGrant:
      return GrantFromProto(proto.grant());
    case v1::KvMessage::kRefuse:
      return VerdictFromProto<Refuse>(proto.refuse());
    case v1::KvMessage::kRectangle:
      return RectangleFromProto(proto.rectangle());
    case v1::KvMessage::kStop:
      return ControlBody(Stop{proto.stop().cause()});
    case v1::KvMessage::kStopped:
      return ControlBody(Stopped{});
    case v1::KvMessage::kAbort:
      return AbortFromProto(proto.abort());
    case v1::KvMessage::kOutcome:
      return VerdictFromProto<Outcome>(proto.outcome());
    case v1::KvMessage::kFirst:
      return ControlBody(Attachment{proto.first().SerializeAsString()});
    case v1::KvMessage::kAck:
      return ControlBody(AckFromProto(proto.ack()));
    case v1::KvMessage::kCredit:
      return ControlBody(CreditFromProto(proto.credit()));
    case v1::KvMessage::kHeartbeat:
      return ControlBody(Heartbeat{});
    default:
      return Bad("body ", static_cast<int>(proto.body_case()),
                 " is not supported");
  }
}

}  // namespace

v1::LayoutManifest ToProto(const LayoutManifest& manifest) {
  v1::LayoutManifest proto;
  proto.set_worker(manifest.worker);
  proto.set_generation(manifest.generation);
  proto.set_kv_fingerprint(manifest.kv_fingerprint);
  proto.set_draft_fingerprint(manifest.draft_fingerprint);
  proto.set_block_tokens(manifest.block_tokens);
  for (const ReplicaManifest& replica : manifest.replicas) {
    v1::Replica& replica_proto = *proto.add_replicas();
    for (const RankManifest& rank : replica.ranks) {
      v1::RankLayout& rank_proto = *replica_proto.add_ranks();
      rank_proto.set_rank(rank.rank);
      rank_proto.set_first_layer(rank.first_layer);
      rank_proto.set_num_layers(rank.num_layers);
      for (const GroupManifest& group : rank.groups) {
        *rank_proto.add_groups() = ToProto(group);
      }
    }
  }
  proto.set_manifest_id(manifest.manifest_id);
  proto.set_numerics_id(manifest.numerics_id);
  return proto;
}

absl::StatusOr<LayoutManifest> FromProto(const v1::LayoutManifest& proto) {
  LayoutManifest manifest;
  manifest.worker = proto.worker();
  manifest.generation = proto.generation();
  manifest.kv_fingerprint = proto.kv_fingerprint();
  manifest.draft_fingerprint = proto.draft_fingerprint();
  manifest.block_tokens = proto.block_tokens();
  for (const v1::Replica& replica_proto : proto.replicas()) {
    ReplicaManifest replica;
    for (const v1::RankLayout& rank_proto : replica_proto.ranks()) {
      RankManifest rank;
      rank.rank = rank_proto.rank();
      rank.first_layer = rank_proto.first_layer();
      rank.num_layers = rank_proto.num_layers();
      for (const v1::Group& group_proto : rank_proto.groups()) {
        ASSIGN_OR_RETURN(GroupManifest group, GroupFromProto(group_proto));
        rank.groups.push_back(std::move(group));
      }
      replica.ranks.push_back(std::move(rank));
    }
    manifest.replicas.push_back(std::move(replica));
  }
  manifest.manifest_id = proto.manifest_id();
  manifest.numerics_id = proto.numerics_id();
  return manifest;
}

v1::Ticket ToProto(const Ticket& ticket) {
  v1::Ticket proto;
  proto.set_transfer_id(ToBytes(ticket.transfer_id));
  proto.set_worker(ticket.worker);
  proto.set_generation(ticket.generation);
  proto.set_replica(ticket.replica);
  proto.set_manifest_id(ticket.manifest_id);
  proto.mutable_blocks()->Add(ticket.blocks.begin(), ticket.blocks.end());
  proto.set_skip(ticket.skip_tokens);
  proto.set_num_tokens(ticket.num_tokens);
  proto.set_remaining_ms(ticket.remaining_ms);
  proto.set_capability(ToBytes(ticket.capability));
  return proto;
}

absl::StatusOr<Ticket> FromProto(const v1::Ticket& proto) {
  Ticket ticket;
  ASSIGN_OR_RETURN(ticket.transfer_id, ParseTransferId(proto.transfer_id()));
  ticket.worker = proto.worker();
  ticket.generation = proto.generation();
  ticket.replica = proto.replica();
  ticket.manifest_id = proto.manifest_id();
  ticket.blocks.assign(proto.blocks().begin(), proto.blocks().end());
  ticket.skip_tokens = proto.skip();
  ticket.num_tokens = proto.num_tokens();
  ticket.remaining_ms = proto.remaining_ms();
  ASSIGN_OR_RETURN(ticket.capability, ParseCapability(proto.capability()));
  return ticket;
}

v1::KvMessage ToProto(const ControlMessage& message) {
  v1::KvMessage proto;
  if (!std::holds_alternative<Heartbeat>(message.body)) {
    proto.set_transfer_id(ToBytes(message.transfer_id));
  }
  proto.set_from_generation(message.from_generation);
  proto.set_to_generation(message.to_generation);
  std::visit(BodyWriter(&proto), message.body);
  return proto;
}

absl::StatusOr<ControlMessage> FromProto(const v1::KvMessage& proto) {
  ControlMessage message;
  if (proto.body_case() == v1::KvMessage::kHeartbeat) {
    if (!proto.transfer_id().empty()) return Bad("heartbeat of a transfer");
  } else {
    ASSIGN_OR_RETURN(message.transfer_id, ParseTransferId(proto.transfer_id()));
  }
  message.from_generation = proto.from_generation();
  message.to_generation = proto.to_generation();
  ASSIGN_OR_RETURN(message.body, BodyFromProto(proto));
  return message;
}

v1::PairRequest ToPairRequest(const PeerOffer& offer, uint64_t to_generation) {
  v1::PairRequest proto = OfferToProto<v1::PairRequest>(offer);
  proto.set_to_generation(to_generation);
  return proto;
}

v1::PairResponse ToPairResponse(const PeerOffer& offer) {
  return OfferToProto<v1::PairResponse>(offer);
}

absl::StatusOr<PeerOffer> FromProto(const v1::PairRequest& proto) {
  return OfferFromProto(proto);
}

absl::StatusOr<PeerOffer> FromProto(const v1::PairResponse& proto) {
  return OfferFromProto(proto);
}

}  // namespace sluice::kvtransfer
