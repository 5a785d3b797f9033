// Pairing, generations, silence and death.
#include <gtest/gtest.h>

#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

TransferStats StatsOf(const TransferEngine& engine) {
  const auto stats = engine.Stats();
  return *stats;
}

using Args = LoopbackPair::Args;

PeerInfo PeerOf(const TransferEngine& engine) {
  const auto peers = engine.Peers();
  return peers->empty() ? PeerInfo{} : peers->front();
}

TEST(Peers, PairIsUpOnBothSides) {
  LoopbackPair pair({});
  EXPECT_EQ(PeerOf(*pair.target_engine).state, PeerState::kUp);
  EXPECT_EQ(PeerOf(*pair.target_engine).transport, "loopback");
  EXPECT_EQ(PeerOf(*pair.source_engine).state, PeerState::kUp);
  pair.Run(20'000);  // heartbeats keep it so
  EXPECT_EQ(PeerOf(*pair.target_engine).state, PeerState::kUp);
  EXPECT_EQ(PeerOf(*pair.source_engine).state, PeerState::kUp);
}

TEST(Peers, OffersAreChecked) {
  LoopbackPair pair({.target = {.name = "decode", .generation = 9}});
  const TransferEngine& target = *pair.target_engine;
  const PeerOffer good = pair.source_engine->PrepareOffer();
  EXPECT_TRUE(target.CheckOffer(good, 0).ok());
  EXPECT_TRUE(target.CheckOffer(good, 9).ok());
  const absl::Status stale = target.CheckOffer(good, 8);
  EXPECT_EQ(stale.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(stale.message(), "stale generation 8, current 9");
  PeerOffer old = good;
  old.manifest.generation = 0;
  EXPECT_EQ(target.CheckOffer(old, 0).code(),
            absl::StatusCode::kInvalidArgument);
  PeerOffer token = good;
  token.shm_token = "short";
  EXPECT_EQ(target.CheckOffer(token, 0).code(),
            absl::StatusCode::kInvalidArgument);
  PeerOffer numerics = good;
  numerics.manifest.numerics_id = "x86.9/9";
  numerics.manifest.manifest_id = ComputeManifestId(numerics.manifest);
  EXPECT_EQ(target.CheckOffer(numerics, 0).code(),
            absl::StatusCode::kFailedPrecondition);
  PeerOffer heads = good;
  heads.manifest.replicas[0].ranks[0].groups[0].heads_total *= 2;
  heads.manifest.manifest_id = ComputeManifestId(heads.manifest);
  EXPECT_FALSE(target.CheckOffer(heads, 0).ok());
  pair.Run(1000);
  const auto stats = target.Stats();
  const std::map<std::string, uint64_t> refusals = {
      {"generation", 1}, {"numerics", 1}, {"version", 3}};
  EXPECT_EQ(stats->pair_refusals, refusals);
  // Tokens are new every time.
  EXPECT_NE(pair.source_engine->PrepareOffer().shm_token, good.shm_token);
}

TEST(Peers, SilenceLosesThePeerAndItsTransfers) {
  LoopbackPair pair({});
  const Ticket ticket = pair.StartReceive({.deadline_ms = 60'000});
  pair.StartSend(ticket);
  pair.Offer(ticket, 16, 0, 2);
  pair.Settle();
  // The source stops for good: only the target's engine runs.
  for (int i = 0; i < 29; ++i) {
    pair.clock.AdvanceMs(100);
    while (pair.target_engine->RunOnce() == 0) {
    }
  }
  EXPECT_FALSE(pair.received.ended());
  for (int i = 0; i < 3; ++i) {
    pair.clock.AdvanceMs(100);
    while (pair.target_engine->RunOnce() == 0) {
    }
  }
  ASSERT_TRUE(pair.received.ended());
  EXPECT_EQ(pair.received.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(PeerOf(*pair.target_engine).state, PeerState::kSuspect);
  EXPECT_EQ(StatsOf(*pair.target_engine).peers_lost.at("prefill"), 1u);
}

TEST(Peers, DeadSourceFailsWhatWasNotAnnounced) {
  LoopbackPair pair({});
  const Ticket ticket = pair.StartReceive({});
  pair.StartSend(ticket);
  pair.Offer(ticket, 16, 0, 2);
  pair.Settle();
  const Ticket waiting = pair.StartReceive({});  // never claimed
  pair.Settle();
  pair.fabric.Kill("prefill");
  pair.Settle();
  ASSERT_EQ(pair.received.ends.size(), 2u);
  for (const TransferResult& result : pair.received.ends) {
    EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  }
}

// Open, pull, S died | every RectangleDone had arrived: its pool is read on.
TEST(Peers, PullGoesOnAfterDeath) {
  for (const int64_t read_ms : {500, 2500}) {
    LoopbackPair pair({});
    pair.fabric.SetJudge([&](const LoopbackEvent& event) {
      LoopbackFate fate;
      if (event.kind == "read") fate.delay_ms = read_ms;
      return fate;
    });
    const Args args;
    const Ticket ticket = pair.StartReceive(args);
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    EXPECT_FALSE(pair.received.ended());
    pair.fabric.Kill("prefill");
    pair.Settle();
    EXPECT_FALSE(pair.received.ended());
    pair.Run(2600);
    ASSERT_TRUE(pair.received.ended());
    if (read_ms < 2000) {
      EXPECT_EQ(pair.received.state(), TransferState::kCompleted);
      EXPECT_TRUE(pair.TargetHolds(args));
    } else {  // the mapping goes after 2 s
      EXPECT_EQ(pair.received.code(), absl::StatusCode::kUnavailable);
    }
    // The attachment cannot come any more.
    EXPECT_EQ(pair.received.attachments.size(), read_ms < 2000 ? 1u : 0u);
  }
}

TEST(Peers, DeadDestinationUnpinsTheSource) {
  for (const TransferMode mode : {TransferMode::kPull, TransferMode::kStream}) {
    LoopbackPair pair({.mode = mode});
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    pair.Offer(ticket, 16, 0, 2);
    pair.Settle();
    pair.fabric.Kill("decode");
    pair.Settle();
    ASSERT_TRUE(pair.sent.ended());
    EXPECT_EQ(pair.sent.state(), TransferState::kFailed);
    EXPECT_EQ(pair.sent.code(), absl::StatusCode::kUnavailable);
  }
}

TEST(Peers, StaleMessagesAreDroppedCountedAndAnswered) {
  LoopbackPair pair({.source = {.name = "prefill", .generation = 4},
                     .target = {.name = "decode", .generation = 9}});
  std::vector<std::string> kinds;
  pair.fabric.SetJudge([&](const LoopbackEvent& event) {
    kinds.push_back(event.kind);
    return LoopbackFate{};
  });
  const Ticket ticket = pair.StartReceive({});
  pair.Settle();
  const Claim claim{.worker = "prefill",
                    .manifest_id = pair.source.manifest.manifest_id,
                    .num_blocks = 3,
                    .capability = ticket.capability};
  pair.target_engine->OnMessage("prefill", {ticket.transfer_id, 3, 9, claim});
  pair.target_engine->OnMessage("prefill", {ticket.transfer_id, 4, 8, claim});
  pair.target_engine->OnMessage("prefill",
                                {ticket.transfer_id, 4, 8, Refuse{}});
  pair.Settle();
  EXPECT_EQ(kinds, (std::vector<std::string>{"refuse", "refuse"}));
  const auto stats = pair.target_engine->Stats();
  EXPECT_EQ(stats->stale_messages.at("claim"), 2u);
  EXPECT_EQ(stats->stale_messages.at("refuse"), 1u);
  EXPECT_FALSE(pair.received.ended());
}

TEST(Peers, PairingAgainEndsWhatWasOpen) {
  LoopbackPair pair({});
  const Ticket ticket = pair.StartReceive({});
  pair.StartSend(ticket);
  pair.Offer(ticket, 16, 0, 2);
  pair.Settle();
  ASSERT_TRUE(pair.fabric.Pair("decode", "prefill").ok());
  pair.Settle();
  EXPECT_EQ(pair.received.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pair.sent.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(PeerOf(*pair.target_engine).state, PeerState::kUp);
  const Args args{.sequence = 12};
  const Ticket next = pair.StartReceive(args);
  pair.StartSend(next);
  pair.OfferAll(next);
  pair.Settle();
  EXPECT_EQ(pair.received.ends.at(1).state, TransferState::kCompleted);
  EXPECT_TRUE(pair.TargetHolds(args));
}

TEST(Peers, SourceWithoutPeerFailsSoon) {
  LoopbackPair pair({.pair = false});
  const Ticket ticket = pair.StartReceive({.deadline_ms = 60'000});
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Run(2900);
  EXPECT_FALSE(pair.sent.ended());
  pair.Run(200);
  ASSERT_TRUE(pair.sent.ended());
  EXPECT_EQ(pair.sent.code(), absl::StatusCode::kUnavailable);
}

TEST(Peers, TicketOfAnOldGenerationIsStale) {
  LoopbackPair pair({.target = {.name = "decode", .generation = 9}});
  Ticket ticket = pair.StartReceive({});
  ticket.generation = 8;
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  ASSERT_TRUE(pair.sent.ended());
  EXPECT_EQ(pair.sent.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(pair.sent.ends[0].status.message(),
            "stale generation 8, current 9");
}

TEST(Peers, MalformedTicketsAreRefused) {
  LoopbackPair pair({});
  const Ticket good = pair.StartReceive({.num_tokens = 40, .skip = 16});
  const auto sync = [&](auto change) {
    Ticket ticket = good;
    change(ticket);
    return pair.source_engine->StartSend({.ticket = ticket}).code();
  };
  const absl::StatusCode kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(sync([](Ticket& t) { t.num_tokens = 0; }), kBad);
  EXPECT_EQ(sync([](Ticket& t) { t.num_tokens = UINT32_MAX; }), kBad);
  EXPECT_EQ(sync([](Ticket& t) { t.skip_tokens = 40; }), kBad);
  EXPECT_EQ(sync([](Ticket& t) { t.remaining_ms = 0; }), kBad);
  EXPECT_EQ(sync([](Ticket& t) { t.manifest_id = "x"; }), kBad);
  EXPECT_EQ(sync([](Ticket& t) { t.worker = "prefill"; }), kBad);
  const auto later = [&](auto change) {
    Ticket ticket = good;
    change(ticket);
    ticket.transfer_id.bytes[0] ^= static_cast<uint8_t>(pair.sent.ends.size());
    ticket.transfer_id.bytes[1] ^= 1;
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    return pair.sent.ends.back().status.code();
  };
  EXPECT_EQ(later([](Ticket& t) { t.blocks[0] = 3; }), kBad);
  EXPECT_EQ(later([](Ticket& t) { t.blocks[1] = 0; }), kBad);
  EXPECT_EQ(later([](Ticket& t) { t.blocks.pop_back(); }), kBad);
  EXPECT_EQ(later([](Ticket& t) { t.replica = 1; }), kBad);
  EXPECT_EQ(later([](Ticket& t) { t.manifest_id = std::string(32, 'x'); }),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice::kvtransfer
