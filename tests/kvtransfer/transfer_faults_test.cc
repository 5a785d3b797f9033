// Every event of a small transfer lost, repeated, delayed, overtaken or
// damaged; either side killed there. Always: exactly one terminal state on
// each live side, in time, a legal pair, and correct bytes if completed. In put
// mode also: what may still be written is quarantined until its fence, and no
// put lands in what was handed out (LoopbackPair checks that).
#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/kvtransfer/testing/loopback_pair.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint32_t kDeadlineMs = 3000;
// Deadline of the source starts later by nothing; drained in the same turn.
constexpr int64_t kBoundMs = kDeadlineMs + 60;

// Longer than a Stop may stay unanswered, and than a late put takes.
constexpr int64_t kFenceMs = 5000;

struct Setup {
  const char* name;
  TransferMode mode = TransferMode::kPull;
  uint32_t staging_slots = 0;
  PutFence fence = PutFence::kClose;
};
constexpr Setup kSetups[] = {
    {"Pull", TransferMode::kPull},
    {"Stream", TransferMode::kStream},
    {"PutStaged", TransferMode::kPut, 2},
    {"PutInPlace", TransferMode::kPut},
    {"PutStagedMapped", TransferMode::kPut, 1, PutFence::kDeath},
    {"PutInPlaceShared", TransferMode::kPut, 0, PutFence::kRegion},
};
int g_cases = 0;
int g_quarantined = 0;

struct Case {
  Setup setup;
  uint64_t seed = 1;
  LoopbackFabric::Judge judge;
  std::function<void(LoopbackPair&, const Ticket&)> act;
  uint64_t act_at_event = UINT64_MAX;
  // Operations of one's own that take longer than the deadline are waited for.
  int64_t bound_ms = kBoundMs;
  int64_t step_ms = 5;
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

// What no answer of the source freed is freed by the wire's own fence.
void CheckQuarantine(LoopbackPair& pair, const Case& c) {
  const bool quarantined =
      pair.received.ended() && pair.received.ends[0].quarantined;
  g_quarantined += quarantined ? 1 : 0;
  EXPECT_TRUE(c.setup.mode == TransferMode::kPut || !quarantined);
  if (!quarantined) {
    EXPECT_EQ(pair.received.released, 0);
    return;
  }
  if (!pair.quarantined.empty()) pair.Run(kFenceMs);
  if (!pair.quarantined.empty()) {
    EXPECT_NE(c.setup.fence, PutFence::kClose);
    if (c.setup.fence == PutFence::kDeath) {
      pair.fabric.Kill("prefill");
      pair.Run(20);
    } else {
      pair.target_engine->Shutdown();
      pair.Run(6500);
    }
  }
  EXPECT_TRUE(pair.quarantined.empty());
  EXPECT_EQ(pair.received.released, 1);
  const auto stats = pair.target_engine->Stats();
  EXPECT_EQ(stats->quarantined_blocks, 0u);
  EXPECT_EQ(stats->quarantined_slots, 0u);
}

Result RunCase(const Case& c) {
  ++g_cases;
  LoopbackPair pair({.mode = c.setup.mode,
                     .seed = c.seed,
                     .staging_slots = c.setup.staging_slots,
                     .put_fence = c.setup.fence,
                     .close_ms = 40});
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
    const auto stats = pair.target_engine->Stats();
    EXPECT_EQ(stats->quarantined_blocks, pair.quarantined.size());
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
  for (int64_t t = 0; t < c.bound_ms; t += c.step_ms) {
    settle();
    pair.clock.AdvanceMs(c.step_ms);
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
  CheckQuarantine(pair, c);
  EXPECT_EQ(pair.fabric.stray_puts(), 0u);
  EXPECT_TRUE(pair.target.Untouched(pair.target_blocks[0]));
  for (uint32_t b = 0; b < pair.target.spec.num_blocks; ++b) {
    if (b != pair.target_blocks[1] && b != pair.target_blocks[2]) {
      EXPECT_TRUE(pair.target.Untouched(b));
    }
  }
  return result;
}

class Faults : public ::testing::TestWithParam<Setup> {
 protected:
  uint64_t NumEvents() { return RunCase({.setup = GetParam()}).events; }
  static void TearDownTestSuite() {
    std::cout << g_cases << " fault cases, " << g_quarantined
              << " of them quarantined blocks\n";
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, Faults, ::testing::ValuesIn(kSetups),
                         [](const auto& info) {
                           return std::string(info.param.name);
                         });

TEST_P(Faults, NothingWrongCompletes) {
  EXPECT_TRUE(RunCase({.setup = GetParam()}).completed);
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
               {"flip", {.flip_bit = true}},
               {"torn", {.delay_ms = 300, .tear = true}},
               {"late", {.late_ms = 700}},
               {"torn and very late", {.tear = true, .late_ms = 4500}}};
  const uint64_t events = NumEvents();
  ASSERT_GT(events, 8u);
  for (const auto& f : fates) {
    for (uint64_t at = 0; at < events; ++at) {
      SCOPED_TRACE(testing::Message() << f.name << " at event " << at);
      std::string kind;
      const Result result = RunCase({.setup = GetParam(),
                                     .judge =
                                         [&](const LoopbackEvent& event) {
                                           if (event.number != at)
                                             return LoopbackFate{};
                                           kind = event.kind;
                                           return f.fate;
                                         },
                                     .bound_ms = kBoundMs + f.fate.delay_ms});
      // Losing or repeating any one control message is always survived.
      const bool payload = kind == "data" || kind == "read" || kind == "put";
      EXPECT_TRUE(payload || result.completed) << kind;
    }
  }
}

TEST_P(Faults, PairsOfLosses) {
  const uint64_t events = NumEvents();
  for (uint64_t a = 0; a < events; ++a) {
    for (uint64_t b = a + 1; b < events + 2; ++b) {
      SCOPED_TRACE(testing::Message() << "events " << a << " and " << b);
      RunCase({.setup = GetParam(), .judge = [&](const LoopbackEvent& event) {
                 LoopbackFate fate;
                 fate.drop = event.number == a || event.number == b;
                 return fate;
               }});
    }
  }
}

using Act = std::function<void(LoopbackPair&, const Ticket&)>;
const std::vector<std::pair<const char*, Act>>& Acts() {
  static const auto* const acts = new std::vector<std::pair<const char*, Act>>{
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
  return *acts;
}

TEST_P(Faults, CancelOrLinkLossAtEachEvent) {
  const uint64_t events = NumEvents();
  for (const auto& [name, act] : Acts()) {
    for (uint64_t at = 0; at < events; ++at) {
      SCOPED_TRACE(testing::Message() << name << " at event " << at);
      Case c{.setup = GetParam()};
      c.act = act;
      c.act_at_event = at;
      RunCase(c);
    }
  }
}

// The same while every byte is still on its way, or on its way although its
// operation has failed, in part landed or not.
TEST_P(Faults, CancelOrLinkLossWhileBytesAreHeld) {
  const LoopbackFate fates[] = {{.delay_ms = 1500},
                                {.delay_ms = 1500, .tear = true},
                                {.delay_ms = 5, .tear = true, .late_ms = 1500},
                                {.delay_ms = 4000}};
  for (const LoopbackFate& held : fates) {
    const auto judge = [&](const LoopbackEvent& event) {
      const bool payload =
          event.kind == "data" || event.kind == "read" || event.kind == "put";
      return payload ? held : LoopbackFate{};
    };
    // Puts are posted until the deadline, and waited for.
    const Case held_case{.setup = GetParam(),
                         .judge = judge,
                         .bound_ms = kBoundMs + held.delay_ms + 40,
                         .step_ms = 20};
    const uint64_t events = RunCase(held_case).events;
    for (const auto& [name, act] : Acts()) {
      for (uint64_t at = 0; at < events; ++at) {
        SCOPED_TRACE(testing::Message()
                     << name << " at event " << at << " held " << held.delay_ms
                     << " + " << held.late_ms << " ms");
        Case c = held_case;
        c.act = act;
        c.act_at_event = at;
        RunCase(c);
      }
    }
  }
}

TEST_P(Faults, RandomWeather) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    RunCase({.setup = GetParam(),
             .seed = seed,
             .judge = [&](const LoopbackEvent& event) {
               const uint64_t dice = random() % 100;
               LoopbackFate fate;
               fate.drop = dice < 15;
               fate.duplicate = dice >= 15 && dice < 35;
               fate.flip_bit = dice == 50;
               fate.tear = random() % 4 == 0;
               if (dice >= 90) fate.late_ms = 50 << (random() % 7);
               if (random() % 3 == 0) {
                 fate.delay_ms = static_cast<int64_t>(random() % 700);
               }
               return fate;
             }});
  }
}

}  // namespace
}  // namespace sluice::kvtransfer
