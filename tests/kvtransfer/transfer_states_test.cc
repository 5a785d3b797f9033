// The rows of the state tables of kv_transfer.md section 8, on loopback with a
// fake clock.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

TransferStats StatsOf(const TransferEngine& engine) {
  const auto stats = engine.Stats();
  return *stats;
}

using Args = LoopbackPair::Args;

class AllModes : public ::testing::TestWithParam<TransferMode> {
 protected:
  LoopbackPairOptions Options() const {
    LoopbackPairOptions options;
    options.mode = GetParam();
    // Puts are gathered; put_mode_test writes in place.
    options.staging_slots = options.mode == TransferMode::kPut ? 4 : 0;
    options.slot_bytes = 16 << 10;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, AllModes,
                         ::testing::Values(TransferMode::kPull,
                                           TransferMode::kStream,
                                           TransferMode::kPut));

// Records what travels, and loses what `lose` says.
struct Wire {
  void Watch(LoopbackPair& pair) {
    pair.fabric.SetJudge([this](const LoopbackEvent& event) {
      seen.push_back(event.kind);
      LoopbackFate fate;
      fate.drop = std::find(lose.begin(), lose.end(), event.kind) != lose.end();
      fate.flip_bit = flip == event.kind;
      return fate;
    });
  }
  int64_t Count(const std::string& kind) const {
    return std::count(seen.begin(), seen.end(), kind);
  }
  std::vector<std::string> seen;
  std::vector<std::string> lose;
  std::string flip;
};

ControlMessage ToTarget(const LoopbackPair& pair, const Ticket& ticket,
                        ControlBody body) {
  return {ticket.transfer_id, pair.source.spec.generation,
          pair.target.spec.generation, std::move(body)};
}

ControlMessage ToSource(const LoopbackPair& pair, const Ticket& ticket,
                        ControlBody body) {
  return {ticket.transfer_id, pair.target.spec.generation,
          pair.source.spec.generation, std::move(body)};
}

Claim ClaimOf(const LoopbackPair& pair, const Ticket& ticket) {
  return {.worker = "prefill",
          .manifest_id = pair.source.manifest.manifest_id,
          .num_blocks = static_cast<uint32_t>(pair.source_blocks.size()),
          .capability = ticket.capability};
}

TEST_P(AllModes, MovesASequence) {
  LoopbackPair pair(Options());
  const Args args;
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  ASSERT_EQ(pair.received.ends.size(), 1u);
  ASSERT_EQ(pair.sent.ends.size(), 1u);
  EXPECT_EQ(pair.received.state(), TransferState::kCompleted);
  EXPECT_EQ(pair.sent.state(), TransferState::kCompleted);
  EXPECT_TRUE(pair.TargetHolds(args));
  EXPECT_EQ(pair.received.ends[0].transport, "loopback");
  EXPECT_GT(pair.received.ends[0].bytes, 0u);
}

TEST_P(AllModes, AllBlockSizesOrdersAndSkips) {
  for (const int from : {8, 16, 64}) {
    for (const int to : {8, 16, 64}) {
      for (const int orders : {0, 1, 2, 3}) {
        if (orders != 0 && std::min(from, to) < 16) continue;
        for (const uint32_t skip : {0u, 64u}) {
          LoopbackPairOptions options = Options();
          options.source.block_tokens = from;
          options.target.block_tokens = to;
          options.source.inner_order =
              orders & 1 ? InnerOrder::kCpuTiles : InnerOrder::kCanonical;
          options.target.inner_order =
              orders & 2 ? InnerOrder::kCpuTiles : InnerOrder::kCanonical;
          // Messages cut runs in the middle.
          options.source.head_dim = options.target.head_dim = 24;
          LoopbackPair pair(options);
          const Args args{.num_tokens = 77, .skip = skip};
          const Ticket ticket = pair.StartReceive(args);
          pair.StartSend(ticket);
          pair.OfferAll(ticket);
          pair.Settle();
          ASSERT_TRUE(pair.received.ended());
          EXPECT_EQ(pair.received.state(), TransferState::kCompleted)
              << pair.received.ends[0].status;
          EXPECT_TRUE(pair.TargetHolds(args))
              << from << "->" << to << " orders " << orders;
        }
      }
    }
  }
}

TEST_P(AllModes, LayersAndChunksGoOutAsTheyBecomeFinal) {
  LoopbackPairOptions options = Options();
  options.source.block_tokens = 16;
  options.target.block_tokens = 32;
  LoopbackPair pair(options);
  Wire wire;
  wire.Watch(pair);
  const Args args{.num_tokens = 100, .skip = 32};
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.Settle();
  EXPECT_EQ(wire.Count("claim"), 0);  // nothing final yet
  pair.Offer(ticket, 32, 0, 2);       // all of it skipped
  pair.Settle();
  EXPECT_EQ(wire.Count("claim"), 0);
  pair.Offer(ticket, 80, 0, 2);  // 64 is the last whole span
  pair.Settle();
  EXPECT_EQ(wire.Count("rectangle"), 1);
  pair.Offer(ticket, 100, 0, 1);
  pair.Settle();
  EXPECT_EQ(wire.Count("rectangle"), 2);
  EXPECT_FALSE(pair.received.ended());
  pair.Offer(ticket, 100, 1, 2);
  pair.Settle();
  EXPECT_EQ(wire.Count("rectangle"), 3);
  ASSERT_TRUE(pair.received.ended());
  EXPECT_TRUE(pair.TargetHolds(args));
}

TEST_P(AllModes, OffersBeyondTheTicketAreCut) {
  LoopbackPair pair(Options());
  const Args args{.num_tokens = 40};
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.source_blocks = {2, 3, 4, 5, 6, 7};
  pair.Offer(ticket, 90, 0, 2);
  pair.Settle();
  ASSERT_TRUE(pair.received.ended());
  EXPECT_EQ(pair.received.state(), TransferState::kCompleted);
  EXPECT_TRUE(pair.TargetHolds(args));
}

TEST_P(AllModes, AttachmentArrivesOnceBeforeOrAfter) {
  for (const bool before : {true, false}) {
    LoopbackPair pair(Options());
    Wire wire;
    wire.lose = {"attachment"};
    wire.Watch(pair);
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    if (before) {
      pair.source_engine->SendAttachment(ticket.transfer_id, "hello");
    }
    pair.OfferAll(ticket);
    pair.Settle();
    if (!before) {
      pair.source_engine->SendAttachment(ticket.transfer_id, "hello");
    }
    pair.Settle();
    EXPECT_TRUE(pair.received.ended());
    EXPECT_TRUE(pair.received.attachments.empty());
    wire.lose = {"ack"};
    pair.Run(2000);  // re-sent, but its answer is lost
    ASSERT_EQ(pair.received.attachments.size(), 1u);
    EXPECT_EQ(*pair.received.attachments[0], "hello");
    EXPECT_GT(wire.Count("attachment"), 2);
    wire.lose = {};
    pair.Run(2500);
    const int64_t sent = wire.Count("attachment");
    pair.Run(5000);
    EXPECT_EQ(wire.Count("attachment"), sent);
    EXPECT_EQ(pair.received.attachments.size(), 1u);
  }
}

TEST_P(AllModes, MissingAttachmentIsReportedAtTheDeadline) {
  LoopbackPair pair(Options());
  const Ticket ticket = pair.StartReceive({.deadline_ms = 1000});
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Run(990);
  EXPECT_EQ(pair.received.state(), TransferState::kCompleted);
  EXPECT_TRUE(pair.received.attachments.empty());
  pair.Run(20);
  ASSERT_EQ(pair.received.attachments.size(), 1u);
  EXPECT_EQ(pair.received.attachments[0].status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

// Ticketed | cancel, deadline: released now; a later Claim is refused.
TEST_P(AllModes, TicketedEndsAtOnce) {
  for (const bool cancel : {true, false}) {
    LoopbackPair pair(Options());
    Wire wire;
    wire.Watch(pair);
    const Ticket ticket = pair.StartReceive({.deadline_ms = 500});
    pair.Settle();
    if (cancel) {
      pair.target_engine->Cancel(ticket.transfer_id,
                                 absl::CancelledError("gone"));
      pair.Settle();
    } else {
      pair.Run(490);
      EXPECT_FALSE(pair.received.ended());
      pair.Run(20);
    }
    ASSERT_TRUE(pair.received.ended());
    EXPECT_EQ(pair.received.state(),
              cancel ? TransferState::kCancelled : TransferState::kExpired);
    EXPECT_EQ(wire.Count("stop"), 0);
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
    ASSERT_TRUE(pair.sent.ended());
    EXPECT_EQ(pair.sent.state(), pair.received.state());
    EXPECT_TRUE(pair.target.Untouched(pair.target_blocks[0]));
  }
}

// Ticketed, Open | Claim with a wrong capability or of another worker.
TEST_P(AllModes, ForeignClaimsAreRefused) {
  LoopbackPair pair(Options());
  Wire wire;
  wire.Watch(pair);
  const Ticket ticket = pair.StartReceive({});
  pair.Settle();
  Claim bad = ClaimOf(pair, ticket);
  bad.capability[3] ^= 1;
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, bad));
  Claim other = ClaimOf(pair, ticket);
  other.worker = "another";
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, other));
  Claim count = ClaimOf(pair, ticket);
  ++count.num_blocks;
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, count));
  pair.Settle();
  EXPECT_EQ(wire.Count("refuse"), 3);
  EXPECT_EQ(wire.Count("grant"), 0);
  EXPECT_FALSE(pair.received.ended());
  // It can still be claimed by the right one, twice.
  const Claim good = ClaimOf(pair, ticket);
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, good));
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, good));
  pair.Settle();
  EXPECT_EQ(wire.Count("grant"), 2);
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, bad));
  pair.Settle();
  EXPECT_EQ(wire.Count("refuse"), 4);
  // A transfer nobody knows gets the same answer.
  Ticket unknown = ticket;
  unknown.transfer_id.bytes[0] ^= 1;
  pair.target_engine->OnMessage("prefill", ToTarget(pair, unknown, good));
  pair.Settle();
  EXPECT_EQ(wire.Count("refuse"), 5);
}

// Open | bad digest.
TEST_P(AllModes, FlippedBitFails) {
  LoopbackPair pair(Options());
  Wire wire;
  wire.flip = GetParam() == TransferMode::kPull     ? "read"
              : GetParam() == TransferMode::kStream ? "data"
                                                    : "put";
  wire.Watch(pair);
  const Ticket ticket = pair.StartReceive({.num_tokens = 48});
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  ASSERT_TRUE(pair.received.ended());
  EXPECT_EQ(pair.received.state(), TransferState::kFailed);
  EXPECT_EQ(pair.received.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(pair.received.ends[0].status.message().find("span"),
            absl::string_view::npos);
  EXPECT_EQ(wire.Count("stop"), 1);
  EXPECT_EQ(wire.Count("stopped"), 1);
  ASSERT_TRUE(pair.sent.ended());
  EXPECT_EQ(pair.sent.state(), TransferState::kCancelled);
  EXPECT_EQ(StatsOf(*pair.target_engine).digest_failures.at("prefill"), 1u);
}

// Open | illegal rectangle.
TEST_P(AllModes, IllegalRectanglesFail) {
  RectangleDone good{
      .rectangle = {0, 32, 0, 2}, .digests = {1, 2}, .source_blocks = {1, 2}};
  if (GetParam() == TransferMode::kPut) good.slot = 1;
  const auto with = [&](auto change) {
    RectangleDone done = good;
    change(done);
    return done;
  };
  const std::vector<RectangleDone> illegal = {
      with([](RectangleDone& d) { d.rectangle.t1 = 41; }),
      with([](RectangleDone& d) { d.rectangle.t0 = 8; }),
      with([](RectangleDone& d) { d.rectangle.t1 = 0; }),
      with([](RectangleDone& d) { d.rectangle.l1 = 3; }),
      with([](RectangleDone& d) { d.rectangle.l0 = 2; }),
      with([](RectangleDone& d) { d.rectangle.t1 = UINT32_MAX; }),
      with([](RectangleDone& d) { d.index = UINT32_MAX; }),
      with([](RectangleDone& d) { d.source_rank = 1; }),
      with([](RectangleDone& d) { d.target_rank = 7; }),
      with([](RectangleDone& d) { d.digests.pop_back(); }),
  };
  std::vector<RectangleDone> all = illegal;
  if (GetParam() == TransferMode::kPull) {
    all.push_back(with([](RectangleDone& d) { d.source_blocks[1] = 0; }));
    all.push_back(with([](RectangleDone& d) { d.source_blocks[0] = 32; }));
    all.push_back(with([](RectangleDone& d) { d.source_blocks = {1}; }));
  }
  if (GetParam() == TransferMode::kPut) {
    all.push_back(with([](RectangleDone& d) { d.slot.reset(); }));
    all.push_back(with([](RectangleDone& d) { d.slot = 2; }));
  }
  for (size_t i = 0; i < all.size(); ++i) {
    LoopbackPair pair(Options());
    const Ticket ticket = pair.StartReceive({});
    pair.Settle();
    pair.target_engine->OnMessage(
        "prefill", ToTarget(pair, ticket, ClaimOf(pair, ticket)));
    pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, all[i]));
    pair.Settle();
    ASSERT_TRUE(pair.received.ended()) << i;
    EXPECT_EQ(pair.received.code(), absl::StatusCode::kInvalidArgument)
        << i << pair.received.ends[0].status;
  }
  // The same rectangle under two indices overlaps itself. (A put is judged by
  // its digest before another comes.)
  if (GetParam() == TransferMode::kPut) return;
  LoopbackPair pair(Options());
  Wire wire;
  wire.Watch(pair);
  const Ticket ticket = pair.StartReceive({});
  pair.Settle();
  pair.target_engine->OnMessage("prefill",
                                ToTarget(pair, ticket, ClaimOf(pair, ticket)));
  RectangleDone first = good;
  first.rectangle = {0, 16, 0, 1};
  first.digests = {0};
  first.source_blocks = {1};
  RectangleDone second = first;
  second.index = 1;
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, first));
  pair.target_engine->OnMessage("prefill", ToTarget(pair, ticket, second));
  pair.Settle();
  EXPECT_EQ(pair.received.code(), absl::StatusCode::kInvalidArgument);
}

// Open | Abort or Stopped; Ticketed | Abort from the named source.
TEST_P(AllModes, SourceGivesUp) {
  for (const bool claimed : {false, true}) {
    LoopbackPair pair(Options());
    const Ticket ticket = pair.StartReceive({.num_tokens = 40});
    pair.StartSend(ticket);
    if (claimed) pair.Offer(ticket, 16, 0, 2);
    pair.Settle();
    EXPECT_FALSE(pair.received.ended());
    pair.source_engine->Cancel(ticket.transfer_id,
                               absl::CancelledError("request gone"));
    pair.Settle();
    ASSERT_TRUE(pair.sent.ended());
    EXPECT_EQ(pair.sent.state(), TransferState::kCancelled);
    ASSERT_TRUE(pair.received.ended());
    EXPECT_EQ(pair.received.state(),
              claimed ? TransferState::kFailed : TransferState::kCancelled);
  }
}

// Open | cancel: Stop, answered; Sending | Stop: drained, unpinned.
TEST_P(AllModes, DestinationCancelsInTheMiddle) {
  LoopbackPair pair(Options());
  Wire wire;
  wire.Watch(pair);
  const Ticket ticket = pair.StartReceive({});
  pair.StartSend(ticket);
  pair.Offer(ticket, 16, 0, 2);
  pair.Settle();
  wire.lose = {"stop"};
  pair.target_engine->Cancel(ticket.transfer_id, absl::CancelledError("x"));
  pair.Settle();
  ASSERT_TRUE(pair.received.ended());  // needs no answer
  EXPECT_EQ(pair.received.state(), TransferState::kCancelled);
  EXPECT_FALSE(pair.sent.ended());
  wire.lose = {};
  pair.Run(250);  // re-sent after 200 ms
  ASSERT_TRUE(pair.sent.ended());
  EXPECT_EQ(pair.sent.state(), TransferState::kCancelled);
  const int64_t stops = wire.Count("stop");
  pair.Run(5000);
  EXPECT_EQ(wire.Count("stop"), stops);
}

TEST_P(AllModes, DeadlinesEndBothSides) {
  LoopbackPair pair(Options());
  Wire wire;
  wire.lose = {"rectangle", "stop", "stopped"};
  wire.Watch(pair);
  const Ticket ticket = pair.StartReceive({.deadline_ms = 1000});
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Run(990);
  EXPECT_FALSE(pair.received.ended());
  EXPECT_FALSE(pair.sent.ended());
  pair.Run(20);
  ASSERT_TRUE(pair.received.ended());
  ASSERT_TRUE(pair.sent.ended());
  EXPECT_EQ(pair.received.state(), TransferState::kExpired);
  EXPECT_EQ(pair.sent.state(), TransferState::kExpired);
  EXPECT_GE(wire.Count("rectangle"), 3);  // 200, 600, ... ms
}

// terminal | Claim, RectangleDone: answered with Outcome, state unchanged.
TEST_P(AllModes, TerminalAnswersRepeats) {
  LoopbackPair pair(Options());
  Wire wire;
  wire.lose = {"outcome"};
  wire.Watch(pair);
  const Ticket ticket = pair.StartReceive({});
  pair.StartSend(ticket);
  pair.OfferAll(ticket);
  pair.Settle();
  EXPECT_EQ(pair.received.state(), TransferState::kCompleted);
  EXPECT_FALSE(pair.sent.ended());
  wire.lose = {};
  pair.Run(250);  // the re-sent rectangle is answered
  ASSERT_TRUE(pair.sent.ended());
  EXPECT_EQ(pair.sent.state(), TransferState::kCompleted);
  pair.target_engine->OnMessage("prefill",
                                ToTarget(pair, ticket, ClaimOf(pair, ticket)));
  pair.target_engine->Cancel(ticket.transfer_id, absl::CancelledError("late"));
  pair.source_engine->Cancel(ticket.transfer_id, absl::CancelledError("late"));
  pair.Settle();
  EXPECT_EQ(pair.received.ends.size(), 1u);
  EXPECT_EQ(pair.sent.ends.size(), 1u);
  const auto stats = pair.target_engine->Stats();
  EXPECT_GE(stats->late_messages.at("rectangle"), 1u);
  EXPECT_EQ(stats->late_messages.at("claim"), 1u);
}

TEST_P(AllModes, UnknownStopIsAnsweredStopped) {
  LoopbackPair pair(Options());
  Wire wire;
  wire.Watch(pair);
  Ticket unknown;
  unknown.transfer_id.bytes[5] = 1;
  pair.source_engine->OnMessage("decode", ToSource(pair, unknown, Stop{"why"}));
  pair.Settle();
  EXPECT_EQ(wire.Count("stopped"), 1);
}

TEST_P(AllModes, RecordsAreForgotten) {
  LoopbackPair pair(Options());
  for (uint64_t i = 0; i < 20; ++i) {
    const Ticket ticket = pair.StartReceive({});
    pair.StartSend(ticket);
    pair.OfferAll(ticket);
    pair.Settle();
  }
  EXPECT_EQ(pair.received.ends.size(), 20u);
  EXPECT_EQ(StatsOf(*pair.target_engine).terminal_records, 20u);
  pair.Run(61'000);
  EXPECT_EQ(StatsOf(*pair.target_engine).terminal_records, 0u);
  EXPECT_EQ(StatsOf(*pair.source_engine).terminal_records, 0u);
  pair.target_engine->CheckInvariants();
}

}  // namespace
}  // namespace sluice::kvtransfer
