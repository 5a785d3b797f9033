// Put mode: what travels, credits and staging slots, and every rule of the
// quarantine.
#include <gtest/gtest.h>

#include <algorithm>

#include "kvtransfer/staging_table.h"
#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

using Args = LoopbackPair::Args;

TransferStats StatsOf(const TransferEngine& engine) {
  const auto stats = engine.Stats();
  return *stats;
}

LoopbackPairOptions Options(uint32_t slots, PutFence fence = PutFence::kClose) {
  return {.mode = TransferMode::kPut,
          .staging_slots = slots,
          .put_fence = fence,
          .close_ms = 40};
}

// All puts take so long; nothing else is held up.
void HoldPuts(LoopbackPair& pair, const LoopbackFate& fate) {
  pair.fabric.SetJudge([fate](const LoopbackEvent& event) {
    return event.kind == "put" ? fate : LoopbackFate{};
  });
}

std::vector<std::string> KindsOf(LoopbackPair& pair, const Args& args) {
  std::vector<std::string> kinds;
  pair.fabric.SetJudge([&](const LoopbackEvent& event) {
    kinds.push_back(event.kind);
    return LoopbackFate{};
  });
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  pair.fabric.SetJudge(nullptr);
  EXPECT_EQ(pair.received.ends.size(), 1u);
  EXPECT_EQ(pair.received.state(), TransferState::kCompleted)
      << pair.received.ends[0].status;
  EXPECT_TRUE(pair.TargetHolds(args));
  return kinds;
}

// A transfer whose puts are under way.
Ticket StartHeld(LoopbackPair& pair, const Args& args,
                 const LoopbackFate& fate) {
  HoldPuts(pair, fate);
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  return ticket;
}

void CancelAtTarget(LoopbackPair& pair, const Ticket& ticket) {
  pair.target_engine->Cancel(ticket.transfer_id, absl::CancelledError("x"));
  pair.Settle();
}

TEST(PutMode, InPlaceTakesOnePutAndOneMessageARectangle) {
  LoopbackPair pair(Options(0));
  EXPECT_EQ(KindsOf(pair, {}),
            (std::vector<std::string>{"claim", "grant", "put", "rectangle",
                                      "outcome"}));
  EXPECT_GT(pair.sent.ends[0].copies, 0u);
}

TEST(PutMode, StagedRectanglesFitTheirSlotsAndReturnThem) {
  LoopbackPair pair(Options(2));
  const std::vector<std::string> kinds = KindsOf(pair, {.num_tokens = 100});
  const auto count = [&](const char* kind) {
    return std::count(kinds.begin(), kinds.end(), kind);
  };
  // 7 blocks, 2 layers, slots of one layer of one block.
  EXPECT_EQ(count("put"), 14);
  EXPECT_EQ(count("rectangle"), 14);
  EXPECT_EQ(count("credit"), 14);
  pair.target_engine->CheckInvariants();  // all slots are back
}

TEST(PutMode, InPlaceForAllBlockSizes) {
  for (const int from : {8, 16, 64}) {
    for (const int to : {8, 16, 64}) {
      for (const uint32_t skip : {0u, 64u}) {
        for (const InnerOrder order :
             {InnerOrder::kCanonical, InnerOrder::kCpuTiles}) {
          if (order == InnerOrder::kCpuTiles && std::min(from, to) < 16) {
            continue;
          }
          LoopbackPairOptions options = Options(0);
          options.source.block_tokens = from;
          options.target.block_tokens = to;
          options.source.inner_order = options.target.inner_order = order;
          options.source.head_dim = options.target.head_dim = 24;
          LoopbackPair pair(options);
          const Args args{.num_tokens = 77, .skip = skip};
          KindsOf(pair, args);
        }
      }
    }
  }
}

// One slot, every Credit or every second Ack lost or repeated: never stuck,
// never a slot written before it was read.
TEST(PutMode, CreditsMayBeLostRepeatedOrLate) {
  for (int variant = 0; variant < 6; ++variant) {
    LoopbackPair pair(Options(1));
    uint64_t number = 0;
    pair.fabric.SetJudge([&](const LoopbackEvent& event) {
      LoopbackFate fate;
      const bool credit = event.kind == "credit";
      const bool ack = event.kind == "ack";
      if (credit || ack) ++number;
      fate.drop = (variant == 0 && credit) || (variant == 1 && ack) ||
                  (variant == 2 && (credit || ack) && number % 4 < 2);
      fate.duplicate = variant >= 3 && (credit || ack);
      if (variant == 4 && credit) fate.delay_ms = 30;
      if (variant == 5 && number % 3 == 0) fate.delay_ms = 250;
      return fate;
    });
    const Args args{.num_tokens = 100, .deadline_ms = 30'000};
    const Ticket ticket = pair.StartReceive(args);
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Run(20'000);
    ASSERT_TRUE(pair.received.ended()) << variant;
    EXPECT_EQ(pair.received.state(), TransferState::kCompleted)
        << variant << pair.received.ends[0].status;
    EXPECT_TRUE(pair.TargetHolds(args)) << variant;
  }
}

TEST(PutMode, StagingThatCannotBeIsRefused) {
  for (const uint32_t slots : {0u, 2u}) {
    LoopbackPairOptions options = Options(slots);
    options.source.inner_order = InnerOrder::kCpuTiles;
    options.slot_bytes = 64;  // less than a span of a layer
    LoopbackPair pair(options);
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    ASSERT_TRUE(pair.sent.ended());
    EXPECT_EQ(pair.sent.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_FALSE(pair.received.ended());  // another source may claim it
  }
}

// A transfer that needs slots waits for them, and slots of an ended one come
// back with its blocks only.
TEST(PutMode, ClaimsWaitForSlots) {
  LoopbackPairOptions options = Options(2);
  options.source.inner_order = InnerOrder::kCpuTiles;
  LoopbackPair pair(options);
  const Ticket first = StartHeld(pair, {}, {.delay_ms = 900});
  CancelAtTarget(pair, first);
  EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_slots, 2u);
  HoldPuts(pair, {});
  const Args args{.first_block = 4};
  const Ticket second = pair.StartReceive(args);
  pair.StartSend(second);
  pair.OfferAll(second);
  pair.Run(850);
  EXPECT_EQ(pair.received.ends.size(), 1u);
  EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_slots, 2u);
  pair.Run(1000);  // the claim is repeated
  ASSERT_EQ(pair.received.ends.size(), 2u);
  EXPECT_EQ(pair.received.ends[1].state, TransferState::kCompleted);
  EXPECT_TRUE(pair.TargetHolds(args));
  EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_slots, 0u);
}

TEST(PutMode, MalformedGrantsEndTheSend) {
  const auto grant = [](std::vector<StagingSlot> slots) {
    return Grant{.mode = TransferMode::kPut, .slots = std::move(slots)};
  };
  for (const Grant& bad :
       {grant({}), grant({{.offset = 0, .size_bytes = 1023}}),
        grant({{.offset = 0, .size_bytes = 4096}, {}})}) {
    LoopbackPairOptions options = Options(2);
    options.source.inner_order = InnerOrder::kCpuTiles;
    LoopbackPair pair(options);
    pair.fabric.SetJudge([](const LoopbackEvent& event) {
      return LoopbackFate{.drop = event.kind == "grant"};
    });
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    pair.source_engine->OnMessage("decode", {ticket.transfer_id, 1, 1, bad});
    pair.Settle();
    ASSERT_TRUE(pair.sent.ended());
    EXPECT_EQ(pair.sent.code(), absl::StatusCode::kInvalidArgument);
    // Nothing was posted: Stopped, and the blocks are free at once.
    ASSERT_TRUE(pair.received.ended());
    EXPECT_FALSE(pair.received.ends[0].quarantined);
  }
  // A slot outside the region is refused by the wire; nothing is written.
  LoopbackPair pair(Options(2));
  pair.fabric.SetJudge([](const LoopbackEvent& event) {
    return LoopbackFate{.drop = event.kind == "grant"};
  });
  const Ticket ticket = pair.StartReceive({});
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  pair.source_engine->OnMessage(
      "decode", {ticket.transfer_id, 1, 1,
                 grant({{.offset = UINT64_MAX - 64, .size_bytes = 4096}})});
  pair.Settle();
  EXPECT_EQ(pair.sent.code(), absl::StatusCode::kInvalidArgument);
}

// --- quarantine --------------------------------------------------------------

// Rule 1: the source's word, once its puts are flushed.
TEST(Quarantine, EndsWhenTheSourceHasStopped) {
  for (const uint32_t slots : {0u, 2u}) {
    LoopbackPair pair(Options(slots));
    const Args args;
    const Ticket ticket = StartHeld(pair, args, {.delay_ms = 500});
    CancelAtTarget(pair, ticket);
    ASSERT_TRUE(pair.received.ended());  // the request does not wait
    EXPECT_EQ(pair.received.state(), TransferState::kCancelled);
    EXPECT_TRUE(pair.received.ends[0].quarantined);
    EXPECT_FALSE(pair.CanHandOut(args));
    EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_blocks, 3u);
    EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_slots, slots);
    pair.Run(490);
    EXPECT_FALSE(pair.CanHandOut(args));
    EXPECT_FALSE(pair.sent.ended());
    pair.Run(10);
    EXPECT_TRUE(pair.sent.ended());
    EXPECT_TRUE(pair.CanHandOut(args));
    EXPECT_EQ(pair.received.released, 1);
    EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_blocks, 0u);
    EXPECT_TRUE(StatsOf(*pair.target_engine).peers_lost.empty());
  }
}

// A source that lives frees a cancelled transfer within one round trip.
TEST(Quarantine, IsOverInOneRoundTripWhenNothingIsUnderWay) {
  LoopbackPair pair(Options(2));
  const Args args;
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.Offer(ticket, 16, 0, 2);
  pair.Settle();
  CancelAtTarget(pair, ticket);
  EXPECT_TRUE(pair.CanHandOut(args));
  EXPECT_EQ(pair.received.released, 1);
}

// The source gives up and says that nothing lands any more.
TEST(Quarantine, IsNotNeededAfterAnAbortOfAStoppedSource) {
  LoopbackPair pair(Options(2));
  const Ticket ticket = StartHeld(pair, {}, {.delay_ms = 300});
  pair.source_engine->Cancel(ticket.transfer_id, absl::CancelledError("gone"));
  pair.Settle();
  EXPECT_FALSE(pair.received.ended());
  pair.Run(310);
  ASSERT_TRUE(pair.received.ended());
  EXPECT_FALSE(pair.received.ends[0].quarantined);
}

// Time only escalates: the peer is lost, its link closed, and that is a fence
// once the close has completed (rule 2).
TEST(Quarantine, EscalatesToAFenceByClose) {
  LoopbackPair pair(Options(2));
  const Args args{.deadline_ms = 60'000};
  const Ticket ticket = StartHeld(pair, args, {.delay_ms = 60'000});
  // Another transfer of the same peer.
  const Ticket other =
      pair.StartReceive({.deadline_ms = 60'000, .first_block = 4});
  pair.StartSend(other);
  pair.OfferAll(other);
  pair.Settle();
  CancelAtTarget(pair, ticket);
  pair.Run(2990);
  EXPECT_FALSE(pair.CanHandOut(args));
  EXPECT_EQ(pair.received.ends.size(), 1u);
  pair.Run(15);
  ASSERT_EQ(pair.received.ends.size(), 2u);
  EXPECT_EQ(pair.received.ends[1].status.code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(StatsOf(*pair.target_engine).peers_lost.at("prefill"), 1u);
  EXPECT_FALSE(pair.CanHandOut(args));  // the close takes 40 ms
  pair.Run(45);
  EXPECT_TRUE(pair.CanHandOut(args));
  EXPECT_EQ(pair.received.released, 2);
  EXPECT_GT(pair.fabric.fenced_puts(), 0u);
}

// Where a close is no fence the put lands after it, an hour later if it likes,
// and finds blocks that nobody else has. Rule 4: the source's death.
TEST(Quarantine, OfAMappedPeerEndsWithItsDeathOnly) {
  for (const uint32_t slots : {0u, 2u}) {
    LoopbackPair pair(Options(slots, PutFence::kDeath));
    const Args args;
    const Ticket ticket = StartHeld(pair, args, {.delay_ms = 3'600'000});
    CancelAtTarget(pair, ticket);
    pair.Run(20'000);  // lost and closed long ago
    EXPECT_TRUE(pair.sent.ended());
    EXPECT_FALSE(pair.CanHandOut(args));
    pair.clock.AdvanceMs(3'600'000);
    pair.Settle();
    EXPECT_GT(pair.fabric.late_puts(), 0u);
    EXPECT_FALSE(pair.CanHandOut(args));
    EXPECT_EQ(StatsOf(*pair.target_engine).quarantined_blocks, 3u);
    pair.fabric.Kill("prefill");
    pair.Settle();
    EXPECT_TRUE(pair.CanHandOut(args));
  }
}

// A killed adapter's puts are still in the network.
TEST(Quarantine, OutlivesTheSourceOverAnAdapter) {
  LoopbackPairOptions options = Options(0);
  options.close_ms = 200;
  LoopbackPair pair(options);
  const Args args;
  StartHeld(pair, args, {.delay_ms = 100});
  pair.fabric.Kill("prefill");
  pair.Settle();
  ASSERT_TRUE(pair.received.ended());
  EXPECT_EQ(pair.received.code(), absl::StatusCode::kUnavailable);
  pair.Run(150);
  EXPECT_GT(pair.fabric.late_puts(), 0u);
  EXPECT_FALSE(pair.CanHandOut(args));
  pair.Run(60);
  EXPECT_TRUE(pair.CanHandOut(args));
}

// Rule 3, at the end of the drain budget.
TEST(Quarantine, EndsWithDeregistrationOverSharedQueuePairs) {
  LoopbackPair pair(Options(2, PutFence::kRegion));
  const Args args;
  StartHeld(pair, args, {.delay_ms = 60'000});
  pair.fabric.Kill("prefill");
  pair.Run(10'000);
  EXPECT_FALSE(pair.CanHandOut(args));
  pair.target_engine->Shutdown();
  pair.Run(4950);
  EXPECT_FALSE(pair.CanHandOut(args));
  EXPECT_FALSE(pair.target_engine->drained());
  pair.Run(100);
  EXPECT_TRUE(pair.CanHandOut(args));
  pair.Run(100);
  EXPECT_TRUE(pair.target_engine->drained());
}

// What no rule frees is never given back, and does not hold up the end of the
// process for ever.
TEST(Quarantine, OfAMappedPeerThatLivesOutlastsTheEngine) {
  LoopbackPair pair(Options(2, PutFence::kDeath));
  const Args args;
  const Ticket ticket = StartHeld(pair, args, {.delay_ms = 60'000});
  CancelAtTarget(pair, ticket);
  pair.target_engine->Shutdown();
  pair.Run(6100);
  EXPECT_TRUE(pair.target_engine->drained());
  EXPECT_FALSE(pair.CanHandOut(args));
  EXPECT_EQ(pair.received.released, 0);
}

// A source stopped right before its put and resumed long after: the put lands
// while it is stopped, or after it was resumed, and is flushed or not.
TEST(Quarantine, HoldsForAPausedSource) {
  for (const PutFence fence :
       {PutFence::kClose, PutFence::kDeath, PutFence::kRegion}) {
    for (const int64_t put_ms : {30'000, 120'000}) {
      LoopbackPair pair(Options(0, fence));
      const Args args{.deadline_ms = 100'000};
      const Ticket ticket = StartHeld(pair, args, {.delay_ms = put_ms});
      pair.target_engine->Cancel(ticket.transfer_id, absl::CancelledError("x"));
      const bool by_close = fence == PutFence::kClose;
      for (int64_t t = 100; t <= 60'000; t += 100) {  // the target alone
        pair.clock.AdvanceMs(100);
        pair.fabric.Deliver();
        while (pair.target_engine->RunOnce() == 0) {
        }
        ASSERT_EQ(pair.CanHandOut(args), by_close && t >= 3100) << t;
      }
      pair.Run(100);  // resumed
      EXPECT_EQ(pair.CanHandOut(args), by_close);
      // Paired again it says what it can: that all of it is flushed, or not.
      ASSERT_TRUE(pair.fabric.Pair("decode", "prefill").ok());
      pair.Run(1000);
      EXPECT_EQ(pair.CanHandOut(args), by_close || put_ms < 60'000);
      pair.Run(60'000);  // the put lands at the latest now
      EXPECT_EQ(pair.CanHandOut(args), by_close || put_ms < 60'000);
      EXPECT_EQ(pair.fabric.stray_puts(), 0u);
    }
  }
}

// A peer that was lost with nothing under way is asked again, and can prove it.
TEST(Quarantine, AsksAgainAfterTheSamePeerIsPairedAgain) {
  LoopbackPair pair(Options(2, PutFence::kDeath));
  const Args args;
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.Offer(ticket, 16, 0, 2);
  pair.Settle();
  pair.source_engine->OnLinkDown("decode", absl::AbortedError("cut"));
  pair.target_engine->OnLinkDown("prefill", absl::AbortedError("cut"));
  pair.Run(5000);
  EXPECT_TRUE(pair.received.ends[0].quarantined);
  EXPECT_FALSE(pair.CanHandOut(args));
  ASSERT_TRUE(pair.fabric.Pair("decode", "prefill").ok());
  pair.Settle();
  EXPECT_TRUE(pair.CanHandOut(args));
}

// An unproven put is remembered for longer than its record.
TEST(Quarantine, AnUnprovenSourceNeverSaysStopped) {
  for (const int64_t wait_ms : {100, 70'000}) {
    LoopbackPair pair(Options(0, PutFence::kDeath));
    std::vector<std::string> kinds;
    pair.fabric.SetJudge([&](const LoopbackEvent& event) {
      kinds.push_back(event.kind);
      LoopbackFate fate;
      if (event.kind == "put") fate.late_ms = 100'000;
      return fate;
    });
    const Args args;
    const Ticket ticket = pair.StartReceive(args);
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Run(4000);
    ASSERT_TRUE(pair.sent.ended());
    pair.Run(wait_ms);
    ASSERT_TRUE(pair.fabric.Pair("decode", "prefill").ok());
    pair.Run(1000);
    EXPECT_FALSE(pair.CanHandOut(args));
    EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "stopped"), 0);
    EXPECT_GE(std::count(kinds.begin(), kinds.end(), "abort"), 2);
  }
}

// A new generation of the source knows nothing of what the old one wrote.
TEST(Quarantine, IsNotEndedByAnotherGeneration) {
  LoopbackPair pair(Options(0, PutFence::kRegion));
  const Args args;
  const Ticket ticket = StartHeld(pair, args, {.delay_ms = 60'000});
  pair.fabric.Kill("prefill");
  pair.Settle();
  PeerOffer next = pair.source_engine->PrepareOffer();
  next.manifest.generation = 2;
  next.manifest.manifest_id = ComputeManifestId(next.manifest);
  std::vector<std::string> kinds;
  pair.fabric.SetJudge([&](const LoopbackEvent& event) {
    kinds.push_back(event.kind);
    return LoopbackFate{};
  });
  pair.target_engine->Pair(pair.target_engine->PrepareOffer(), next);
  pair.target_engine->OnLinkUp("prefill");
  pair.Run(500);
  pair.target_engine->OnMessage("prefill",
                                {ticket.transfer_id, 2, 1, Stopped{}});
  pair.target_engine->OnMessage(
      "prefill", {ticket.transfer_id, 2, 1, Abort{.stopped = true}});
  pair.Settle();
  EXPECT_FALSE(pair.CanHandOut(args));
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "stop"), 0);
  // A message of the old one is stale now.
  pair.target_engine->OnMessage("prefill",
                                {ticket.transfer_id, 1, 1, Stopped{}});
  pair.Settle();
  EXPECT_FALSE(pair.CanHandOut(args));
}

// Killed in the middle of its puts and started again, over and over: what is
// still in the network stays out of other blocks, and nothing piles up.
TEST(Quarantine, SurvivesRestartsOfTheSource) {
  for (const PutFence fence : {PutFence::kClose, PutFence::kDeath}) {
    for (const uint32_t slots : {0u, 4u}) {
      LoopbackPair pair(Options(slots, fence));
      const Args held;
      const Args next{.sequence = 9, .first_block = 4};
      for (int i = 0; i < 100; ++i) {
        StartHeld(pair, held, {.delay_ms = 1 + i % 60, .tear = i % 2 == 0});
        pair.RestartSource();
        pair.received = {};
        int stops = 0;  // the new generation cannot answer for the old one
        pair.fabric.SetJudge([&](const LoopbackEvent& event) {
          stops += event.kind == "stop" ? 1 : 0;
          return LoopbackFate{};
        });
        ASSERT_TRUE(pair.fabric.Pair("decode", "prefill").ok());
        pair.Settle();
        EXPECT_EQ(stops, 0);
        ASSERT_EQ(pair.received.ends.size(), 1u);
        EXPECT_EQ(pair.received.code(), absl::StatusCode::kUnavailable);
        EXPECT_EQ(pair.CanHandOut(held), fence == PutFence::kDeath);
        HoldPuts(pair, {});
        const Ticket ticket = pair.StartReceive(next);
        pair.StartSend(ticket);
        pair.OfferAll(ticket);
        pair.Run(10);
        ASSERT_EQ(pair.received.ends.size(), 2u);
        EXPECT_EQ(pair.received.ends[1].state, TransferState::kCompleted);
        EXPECT_TRUE(pair.TargetHolds(next));
        pair.Run(35);
        EXPECT_TRUE(pair.CanHandOut(held));
      }
      EXPECT_EQ(pair.fabric.stray_puts(), 0u);
      if (fence == PutFence::kClose) {
        EXPECT_GT(pair.fabric.late_puts(), 0u);
      }
    }
  }
}

// Who does not ask for the release is told the end when it is over.
TEST(Quarantine, WithoutReleaseTheEndWaits) {
  LoopbackPair pair(Options(0));
  HoldPuts(pair, {.delay_ms = 500});
  pair.StartReceive({.first_block = 9});  // fills the source's blocks
  std::vector<TransferResult> ends;
  ReceiveArgs receive;
  receive.blocks = {3, 5, 7};
  receive.num_tokens = 40;
  receive.on_ended = [&](const TransferId&, const TransferResult& result) {
    ends.push_back(result);
  };
  const absl::StatusOr<Ticket> ticket =
      pair.target_engine->StartReceive(receive);
  ASSERT_TRUE(ticket.ok());
  pair.StartSend(*ticket);
  pair.OfferAll(*ticket);
  pair.Settle();
  CancelAtTarget(pair, *ticket);
  pair.Run(490);
  EXPECT_TRUE(ends.empty());
  pair.Run(15);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].state, TransferState::kCancelled);
  EXPECT_FALSE(ends[0].quarantined);
}

TEST(Staging, AreasAreChecked) {
  LoopbackPair pair(Options(2));
  const auto code = [&](const StagingArea& area) {
    LoopbackFabric fabric(&pair.clock, 1);
    EngineOptions options;
    options.manifest = pair.target.manifest;
    options.region = pair.target.memory->region();
    options.control = fabric.MakeControl("x");
    options.clock = &pair.clock;
    options.staging = area;
    auto engine = TransferEngine::Create(std::move(options));
    if (!engine.ok()) return engine.status().code();
    (*engine)->Shutdown();
    while (!(*engine)->drained()) (*engine)->RunOnce();
    return absl::StatusCode::kOk;
  };
  const uint64_t end = pair.target.blocks_bytes();
  const absl::StatusCode kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({end, 1024, 2}), absl::StatusCode::kOk);
  EXPECT_EQ(code({end - 64, 1024, 2}), kBad);
  EXPECT_EQ(code({end, 1 << 20, 2}), kBad);
  EXPECT_EQ(code({end, UINT64_MAX - 63, 64}), kBad);
  EXPECT_EQ(code({end, 1000, 2}), kBad);
  EXPECT_EQ(code({UINT64_MAX - 63, 64, 1}), kBad);
  EXPECT_EQ(code({end, 0, 65}), kBad);
}

TEST(Regions, LieWhereTheManifestSays) {
  LoopbackPair pair(Options(0));
  LoopbackFabric fabric(&pair.clock, 1);
  EngineOptions options;
  options.manifest = pair.target.manifest;
  options.region = pair.target.region;
  options.region.memory_kind = "cuda";
  options.control = fabric.MakeControl("x");
  options.clock = &pair.clock;
  EXPECT_EQ(TransferEngine::Create(std::move(options)).status(),
            absl::InvalidArgumentError(
                "group 0 lies in host memory, its region in cuda"));
}

TEST(Staging, LendsWhatIsFree) {
  StagingTable table({.offset = 128, .slot_bytes = 64, .num_slots = 3}, "key");
  const std::vector<uint32_t> two = table.Lend(2);
  EXPECT_EQ(two, (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(table.Name(1).offset, 192u);
  EXPECT_EQ(table.Name(1).region_key, "key");
  EXPECT_EQ(table.Lend(2), (std::vector<uint32_t>{2}));
  EXPECT_TRUE(table.Lend(1).empty());
  table.Return(two);
  EXPECT_EQ(table.num_free(), 2u);
  EXPECT_DEATH(table.Return(two), "");
}

}  // namespace
}  // namespace sluice::kvtransfer
