#ifndef KVTRANSFER_WIRE_KV_WIRE_H_
#define KVTRANSFER_WIRE_KV_WIRE_H_

#include "absl/status/statusor.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/peer_offer.h"
#include "proto/kv.pb.h"

namespace sluice::kvtransfer {

// The values of kvtransfer as messages of proto/kv.proto and back: the only
// place of this folder that knows protobuf. FromProto() checks what a type
// can check by itself (sizes of ids, known enumerators, one body) and answers
// kInvalidArgument with the field and value; meaning is checked by whoever
// takes the value. An Attachment is a serialised FirstTokens.

v1::LayoutManifest ToProto(const LayoutManifest& manifest);
absl::StatusOr<LayoutManifest> FromProto(const v1::LayoutManifest& proto);

// traceparent is the caller's.
v1::Ticket ToProto(const Ticket& ticket);
absl::StatusOr<Ticket> FromProto(const v1::Ticket& proto);

v1::KvMessage ToProto(const ControlMessage& message);
absl::StatusOr<ControlMessage> FromProto(const v1::KvMessage& proto);

// `to_generation`: of the peer; 0: not known yet.
v1::PairRequest ToPairRequest(const PeerOffer& offer,
                              uint64_t to_generation = 0);
v1::PairResponse ToPairResponse(const PeerOffer& offer);
absl::StatusOr<PeerOffer> FromProto(const v1::PairRequest& proto);
absl::StatusOr<PeerOffer> FromProto(const v1::PairResponse& proto);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_WIRE_KV_WIRE_H_
