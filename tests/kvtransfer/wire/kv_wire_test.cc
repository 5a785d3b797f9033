#include "kvtransfer/wire/kv_wire.h"

#include <gtest/gtest.h>

#include "tests/kvtransfer/testing/kv_worker.h"

namespace sluice::kvtransfer {
namespace {

TEST(KvWire, ManifestAndOffersRoundTrip) {
  LayoutManifest manifest =
      MakeManifest({.inner_order = InnerOrder::kCpuTiles});
  const auto back = FromProto(ToProto(manifest));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, manifest);
  EXPECT_TRUE(ValidateManifest(*back).ok());
  PeerOffer offer;
  offer.manifest = manifest;
  offer.boot_id = "boot";
  offer.uid = 7;
  offer.modes = {TransferMode::kPull, TransferMode::kStream};
  offer.shm_socket = "s";
  offer.shm_token = "t";
  offer.ucx_address = "1.2.3.4:5";
  offer.ucx_token = "u";
  for (const auto& again :
       {FromProto(ToPairRequest(offer, 9)), FromProto(ToPairResponse(offer))}) {
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->manifest, offer.manifest);
    EXPECT_EQ(again->boot_id, offer.boot_id);
    EXPECT_EQ(again->uid, offer.uid);
    EXPECT_EQ(again->modes, offer.modes);
    EXPECT_EQ(again->shm_socket, offer.shm_socket);
    EXPECT_EQ(again->shm_token, offer.shm_token);
    EXPECT_EQ(again->ucx_address, offer.ucx_address);
    EXPECT_EQ(again->ucx_token, offer.ucx_token);
  }
  EXPECT_EQ(ToPairRequest(offer, 9).to_generation(), 9u);
}

TEST(KvWire, EveryBodyRoundTrips) {
  v1::FirstTokens first;
  first.add_token_ids(17);
  const ControlBody bodies[] = {
      Heartbeat{},
      Claim{.worker = "w",
            .replica = 1,
            .manifest_id = "m",
            .num_blocks = 3,
            .capability = {4}},
      Grant{.mode = TransferMode::kStream, .stream_message_bytes = 65536},
      Grant{.mode = TransferMode::kPut,
            .slots = {{.region_key = "key", .offset = 64, .size_bytes = 128}}},
      Credit{.slot = 1, .source_rank = 2, .target_rank = 3, .index = 4},
      Refuse{.code = absl::StatusCode::kNotFound, .detail = "d"},
      RectangleDone{.source_rank = 1,
                    .target_rank = 2,
                    .index = 3,
                    .rectangle = {4, 5, 6, 7},
                    .last = true,
                    .digests = {UINT64_MAX, 1},
                    .source_blocks = {8, 9}},
      RectangleDone{.rectangle = {4, 5, 6, 7}, .digests = {1}, .slot = 0},
      Ack{.source_rank = 1,
          .target_rank = 2,
          .next_index = 3,
          .placed_bytes = 4,
          .attachment = true},
      Stop{"cause"},
      Stopped{},
      Abort{.code = absl::StatusCode::kAborted, .stopped = true},
      Outcome{.state = TransferState::kExpired,
              .code = absl::StatusCode::kDeadlineExceeded,
              .detail = "x"},
      Attachment{first.SerializeAsString()},
  };
  for (const ControlBody& body : bodies) {
    ControlMessage message;
    if (!std::holds_alternative<Heartbeat>(body)) {
      message.transfer_id.bytes[1] = 5;
    }
    message.from_generation = 6;
    message.to_generation = 7;
    message.body = body;
    const v1::KvMessage proto = ToProto(message);
    const auto back = FromProto(proto);
    ASSERT_TRUE(back.ok()) << KindName(body) << back.status();
    EXPECT_EQ(back->transfer_id, message.transfer_id);
    EXPECT_EQ(back->body.index(), body.index());
    EXPECT_EQ(ToProto(*back).SerializeAsString(), proto.SerializeAsString())
        << KindName(body);
  }
}

TEST(KvWire, TicketRoundTrips) {
  Ticket ticket;
  ticket.transfer_id.bytes[3] = 1;
  ticket.worker = "d";
  ticket.generation = 5;
  ticket.replica = 1;
  ticket.manifest_id = "m";
  ticket.blocks = {0, 4};
  ticket.skip_tokens = 16;
  ticket.num_tokens = 20;
  ticket.remaining_ms = 99;
  ticket.capability[2] = 7;
  const auto back = FromProto(ToProto(ticket));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(ToProto(*back).SerializeAsString(),
            ToProto(ticket).SerializeAsString());
}

TEST(KvWire, RefusesMalformedMessages) {
  const auto refused = [](auto change) {
    v1::KvMessage proto;
    proto.set_transfer_id(std::string(16, 'i'));
    change(proto);
    return FromProto(proto).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  using M = v1::KvMessage;
  EXPECT_FALSE(refused([](M& m) { m.mutable_stop(); }));
  EXPECT_TRUE(refused([](M&) {}));  // no body
  EXPECT_TRUE(refused([](M& m) { m.mutable_heartbeat(); }));
  EXPECT_TRUE(refused([](M& m) {
    m.set_transfer_id("short");
    m.mutable_stop();
  }));
  EXPECT_TRUE(refused([](M& m) { m.mutable_claim()->set_capability("x"); }));
  EXPECT_TRUE(refused([](M& m) { m.mutable_grant(); }));
  EXPECT_TRUE(refused([](M& m) {
    m.mutable_grant()->set_mode(v1::PULL);
    m.mutable_grant()->add_slots();
  }));
  EXPECT_TRUE(refused([](M& m) {
    m.mutable_grant()->set_mode(v1::PUT);
    for (size_t i = 0; i <= kMaxStagingSlots; ++i) {
      m.mutable_grant()->add_slots();
    }
  }));
  EXPECT_TRUE(refused([](M& m) { m.mutable_outcome(); }));
  EXPECT_TRUE(refused([](M& m) { m.mutable_abort()->set_code(17); }));
  EXPECT_TRUE(refused([](M& m) { m.mutable_abort()->set_code(-1); }));
  v1::LayoutManifest manifest = ToProto(MakeManifest({}));
  auto* group =
      manifest.mutable_replicas(0)->mutable_ranks(0)->mutable_groups(0);
  group->set_kind("secret");
  EXPECT_FALSE(FromProto(manifest).ok());
  group->set_kind("latent");
  group->set_dtype("f7");
  EXPECT_FALSE(FromProto(manifest).ok());
  group->set_dtype("bf16");
  group->clear_inner_order();
  EXPECT_FALSE(FromProto(manifest).ok());
}

}  // namespace
}  // namespace sluice::kvtransfer
