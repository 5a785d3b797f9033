// Every event of a small transfer lost, repeated, delayed, overtaken or
// damaged; either side killed there. Always: exactly one terminal state on
// each live side, in time, a legal pair, and correct bytes if completed.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kDeadlineMs = 3000;
// Deadline of the source starts later by nothing; drained in the same turn.
constexpr int64_t kBoundMs = kDeadlineMs + 60;

struct Case {
  TransferMode mode = TransferMode::kPull;
  uint64_t seed = 1;
  LoopbackFabric::Judge judge;
  std::function<void(LoopbackPair&, const Ticket&)> act;
  uint64_t act_at_event = UINT64_MAX;
  // Operations of one's own that take longer than the deadline are waited for.
  int64_t bound_ms = kBoundMs;
};

struct Result {
  uint64_t events = 0;
  bool completed = false;
};

void CheckPair(const LoopbackPair& pair, bool source_lives, bool target_lives) {
  if (source_lives) {
    ASSERT_EQ(pair.sent.ends.size(), 1u);
  }
  if (target_lives) {
    ASSERT_EQ(pair.received.ends.size(), 1u);
  }
  if (!source_lives || !target_lives) return;
  if (pair.sent.state() == TransferState::kCompleted) {
    EXPECT_EQ(pair.received.state(), TransferState::kCompleted);
  }
}

Result RunCase(const Case& c) {
  LoopbackPair pair({.mode = c.mode, .seed = c.seed});
  uint64_t events = 0;
  bool act_now = false;
  pair.fabric.SetJudge([&](const LoopbackEvent& event) {
    act_now = act_now || events == c.act_at_event;
    LoopbackEvent numbered = event;
    numbered.number = events++;
    return c.judge ? c.judge(numbered) : LoopbackFate{};
  });
  const LoopbackPair::Args args{
      .num_tokens = 40, .skip = 16, .deadline_ms = kDeadlineMs};
  const Ticket ticket = pair.StartReceive(args);
  pair.StartSend(ticket);
  pair.source_engine->SendAttachment(ticket.transfer_id, "tokens");
  bool acted = false;
  const auto settle = [&] {
    pair.Settle();
    if (act_now && !acted) {
      acted = true;
      c.act(pair, ticket);
      pair.Settle();
    }
  };
  settle();
  pair.Offer(ticket, 40, 0, 1);
  settle();
  pair.Offer(ticket, 40, 1, 2);
  for (int64_t t = 0; t < c.bound_ms; t += 5) {
    settle();
    pair.clock.AdvanceMs(5);
  }
  settle();
  // CheckInvariants ran after every step. What a killed side does is its own.
  const bool killed = c.act != nullptr && acted;
  EXPECT_LE(pair.sent.ends.size(), 1u);
  EXPECT_LE(pair.received.ends.size(), 1u);
  if (!killed) CheckPair(pair, true, true);
  EXPECT_LE(pair.received.attachments.size(), 1u);
  Result result{.events = events};
  if (pair.received.ended()) {
    result.completed = pair.received.state() == TransferState::kCompleted;
  } else {
    ADD_FAILURE() << "the destination did not end";
  }
  if (!pair.sent.ended()) ADD_FAILURE() << "the source did not end";
  if (result.completed) {
    EXPECT_TRUE(pair.TargetHolds(args));
    EXPECT_EQ(pair.received.attachments.size(), 1u);
  }
  EXPECT_TRUE(pair.target.Untouched(pair.target_blocks[0]));
  for (uint32_t b = 0; b < pair.target.spec.num_blocks; ++b) {
    if (b != pair.target_blocks[1] && b != pair.target_blocks[2]) {
      EXPECT_TRUE(pair.target.Untouched(b));
    }
  }
  return result;
}

class Faults : public ::testing::TestWithParam<TransferMode> {
 protected:
  uint64_t NumEvents() { return RunCase({.mode = GetParam()}).events; }
};
INSTANTIATE_TEST_SUITE_P(Modes, Faults,
                         ::testing::Values(TransferMode::kPull,
                                           TransferMode::kStream));

TEST_P(Faults, NothingWrongCompletes) {
  EXPECT_TRUE(RunCase({.mode = GetParam()}).completed);
}

TEST_P(Faults, EachEventOnce) {
  const struct {
    const char* name;
    LoopbackFate fate;
  } fates[] = {{"drop", {.drop = true}},
               {"duplicate", {.duplicate = true}},
               {"delay", {.delay_ms = 450}},
               {"long delay", {.delay_ms = 2900}},
               {"never in time", {.delay_ms = 5000}},
               {"flip", {.flip_bit = true}}};
  const uint64_t events = NumEvents();
  ASSERT_GT(events, 8u);
  for (const auto& f : fates) {
    for (uint64_t at = 0; at < events; ++at) {
      SCOPED_TRACE(testing::Message() << f.name << " at event " << at);
      std::string kind;
      const Result result = RunCase({.mode = GetParam(),
                                     .judge =
                                         [&](const LoopbackEvent& event) {
                                           if (event.number != at)
                                             return LoopbackFate{};
                                           kind = event.kind;
                                           return f.fate;
                                         },
                                     .bound_ms = kBoundMs + f.fate.delay_ms});
      // Losing or repeating any one control message is always survived.
      const bool payload = kind == "data" || kind == "read";
      EXPECT_TRUE(payload || result.completed) << kind;
    }
  }
}

TEST_P(Faults, PairsOfLosses) {
  const uint64_t events = NumEvents();
  for (uint64_t a = 0; a < events; ++a) {
    for (uint64_t b = a + 1; b < events + 2; ++b) {
      SCOPED_TRACE(testing::Message() << "events " << a << " and " << b);
      RunCase({.mode = GetParam(), .judge = [&](const LoopbackEvent& event) {
                 LoopbackFate fate;
                 fate.drop = event.number == a || event.number == b;
                 return fate;
               }});
    }
  }
}

TEST_P(Faults, CancelOrLinkLossAtEachEvent) {
  using Act = std::function<void(LoopbackPair&, const Ticket&)>;
  const std::pair<const char*, Act> acts[] = {
      {"cancel at the source",
       [](LoopbackPair& pair, const Ticket& ticket) {
         pair.source_engine->Cancel(ticket.transfer_id,
                                    absl::CancelledError("gone"));
       }},
      {"cancel at the target",
       [](LoopbackPair& pair, const Ticket& ticket) {
         pair.target_engine->Cancel(ticket.transfer_id,
                                    absl::CancelledError("gone"));
       }},
      {"link down",
       [](LoopbackPair& pair, const Ticket&) {
         pair.source_engine->OnLinkDown("decode", absl::AbortedError("cut"));
         pair.target_engine->OnLinkDown("prefill", absl::AbortedError("cut"));
       }},
      {"link down at the target only",
       [](LoopbackPair& pair, const Ticket&) {
         pair.target_engine->OnLinkDown("prefill", absl::AbortedError("cut"));
       }},
      {"pair again",
       [](LoopbackPair& pair, const Ticket&) {
         EXPECT_TRUE(pair.fabric.Pair("decode", "prefill").ok());
       }},
      {"shutdown of the source",
       [](LoopbackPair& pair, const Ticket&) {
         pair.source_engine->Shutdown();
       }},
      {"shutdown of the target",
       [](LoopbackPair& pair, const Ticket&) {
         pair.target_engine->Shutdown();
       }},
      {"kill the source",
       [](LoopbackPair& pair, const Ticket&) { pair.fabric.Kill("prefill"); }},
      {"kill the target",
       [](LoopbackPair& pair, const Ticket&) { pair.fabric.Kill("decode"); }}};
  const uint64_t events = NumEvents();
  for (const auto& [name, act] : acts) {
    for (uint64_t at = 0; at < events; ++at) {
      SCOPED_TRACE(testing::Message() << name << " at event " << at);
      Case c{.mode = GetParam()};
      c.act = act;
      c.act_at_event = at;
      RunCase(c);
    }
  }
}

TEST_P(Faults, RandomWeather) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    RunCase({.mode = GetParam(),
             .seed = seed,
             .judge = [&](const LoopbackEvent& event) {
               const uint64_t dice = random() % 100;
               LoopbackFate fate;
               fate.drop = dice < 15;
               fate.duplicate = dice >= 15 && dice < 35;
               fate.flip_bit = dice == 50;
               if (random() % 3 == 0) {
                 fate.delay_ms = static_cast<int64_t>(random() % 700);
               }
               return fate;
             }});
  }
}

}  // namespace
}  // namespace sluice::kvtransfer
