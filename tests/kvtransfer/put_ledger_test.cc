// Many transfers at once in put mode, over a block ledger: blocks and staging
// slots are handed out again and again while puts are late, torn or lost, links
// are cut and requests cancelled. No put may land in what somebody else has.

#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/kvtransfer/testing/loopback_pair.h"
#include "worker/cache/block_allocator.h"

namespace sluice::kvtransfer {
namespace {

using worker::BlockAllocator;
using worker::BlockId;

struct Setup {
  const char* name;
  uint32_t staging_slots = 0;
  PutFence fence = PutFence::kClose;
};

struct Counts {
  int started = 0;
  int completed = 0;
  int quarantined = 0;
};

// One run; the transfers' callbacks keep the ledgers of both sides.
class Ledgers {
 public:
  Ledgers(const Setup& setup, uint64_t seed)
      : pair({.mode = TransferMode::kPut,
              .seed = seed,
              .staging_slots = setup.staging_slots,
              .put_fence = setup.fence,
              .close_ms = 60}),
        random(seed),
        source_blocks(32),
        target_blocks(32),
        owners_(32, 0) {
    pair.fabric.SetOwner([this](const std::string& worker, uint64_t offset) {
      const auto stride =
          static_cast<uint64_t>(pair.target.layout().block_stride_bytes());
      return worker == "decode" && offset < pair.target.blocks_bytes()
                 ? owners_[offset / stride]
                 : 0;
    });
    pair.fabric.SetJudge([this](const LoopbackEvent& event) {
      return event.kind == "put" ? PutFate() : MessageFate();
    });
  }

  void Start() {
    const uint32_t tokens = 1 + static_cast<uint32_t>(random() % 60);
    const uint32_t count = (tokens + 15) / 16;
    if (target_blocks.available() < count ||
        source_blocks.available() < count) {
      return;
    }
    std::vector<BlockId> to, from;
    ASSERT_TRUE(target_blocks.Allocate(count, to).ok());
    ASSERT_TRUE(source_blocks.Allocate(count, from).ok());
    for (const BlockId block : to) ++owners_[block];
    const uint64_t sequence = static_cast<uint64_t>(++counts.started);
    pair.source.Fill(from, tokens, sequence);
    ReceiveArgs receive;
    receive.blocks = to;
    receive.num_tokens = tokens;
    receive.deadline_ms = 2000;
    receive.on_ended = [=, this](const TransferId& id,
                                 const TransferResult& result) {
      OnReceived(id, to, result);
      if (result.state != TransferState::kCompleted) return;
      EXPECT_TRUE(pair.target.Holds(to, 0, tokens, sequence));
    };
    receive.on_released = [=, this](const TransferId&) {
      for (const BlockId block : to) {
        ++owners_[block];
        target_blocks.ReleaseQuarantined(block);
      }
    };
    const absl::StatusOr<Ticket> ticket =
        pair.target_engine->StartReceive(receive);
    ASSERT_TRUE(ticket.ok());
    SendArgs send;
    send.ticket = *ticket;
    send.on_ended = [=, this](const TransferId&, const TransferResult&) {
      ++sent_;
      for (const BlockId block : from) source_blocks.Unref(block);
    };
    ASSERT_TRUE(pair.source_engine->StartSend(send).ok());
    pair.source_engine->OfferRectangle({.transfer_id = ticket->transfer_id,
                                        .rectangle = {0, tokens, 0, 2},
                                        .blocks = from});
    open_[sequence] = ticket->transfer_id;
    sequence_of_[ticket->transfer_id.bytes] = sequence;
  }

  void CancelOne() {
    if (open_.empty()) return;
    const TransferId id = open_.begin()->second;
    TransferEngine& side =
        random() % 2 == 0 ? *pair.source_engine : *pair.target_engine;
    side.Cancel(id, absl::CancelledError("x"));
  }

  void Cut() {
    pair.source_engine->OnLinkDown("decode", absl::AbortedError("cut"));
    pair.target_engine->OnLinkDown("prefill", absl::AbortedError("cut"));
  }

  void Check() {
    pair.Settle();
    ASSERT_TRUE(target_blocks.CheckInvariants().ok());
    const auto stats = pair.target_engine->Stats();
    ASSERT_EQ(stats->quarantined_blocks, target_blocks.num_quarantined());
    ASSERT_EQ(pair.fabric.stray_puts(), 0u);
    // Nothing flips here: a wrong digest would be a slot written too early.
    ASSERT_TRUE(stats->digest_failures.empty());
  }

  int sent() const { return sent_; }
  int received() const { return received_; }

  LoopbackPair pair;
  std::mt19937_64 random;
  BlockAllocator source_blocks;
  BlockAllocator target_blocks;
  Counts counts;
  bool calm = false;

 private:
  LoopbackFate PutFate() {
    LoopbackFate fate;
    if (calm) return fate;
    const uint64_t dice = random() % 100;
    fate.delay_ms = static_cast<int64_t>(random() % 40);
    fate.tear = dice % 3 == 0;
    fate.duplicate = dice % 5 == 0;
    if (dice < 3) fate.drop = true;
    if (dice >= 90) fate.late_ms = static_cast<int64_t>(random() % 4000);
    if (dice >= 85 && dice < 90) fate.delay_ms += 3000;
    return fate;
  }

  LoopbackFate MessageFate() {
    LoopbackFate fate;
    if (calm) return fate;
    const uint64_t dice = random() % 100;
    fate.drop = dice < 5;
    fate.duplicate = dice >= 90;
    if (dice % 4 == 0) fate.delay_ms = static_cast<int64_t>(random() % 100);
    return fate;
  }

  void OnReceived(const TransferId& id, const std::vector<BlockId>& blocks,
                  const TransferResult& result) {
    ++received_;
    open_.erase(sequence_of_.at(id.bytes));
    counts.completed += result.state == TransferState::kCompleted ? 1 : 0;
    counts.quarantined += result.quarantined ? 1 : 0;
    for (const BlockId block : blocks) {
      if (result.quarantined) {
        target_blocks.Quarantine(block);
      } else {
        target_blocks.Unref(block);
        // A completed transfer's blocks are handed on as well.
        ++owners_[block];
      }
    }
  }

  std::vector<uint64_t> owners_;
  std::map<uint64_t, TransferId> open_;  // by sequence
  std::map<std::array<uint8_t, 16>, uint64_t> sequence_of_;
  int sent_ = 0;
  int received_ = 0;
};

class PutLedger : public ::testing::TestWithParam<Setup> {};
INSTANTIATE_TEST_SUITE_P(
    Fences, PutLedger,
    ::testing::Values(Setup{"InPlaceClose", 0}, Setup{"StagedClose", 3},
                      Setup{"InPlaceDeath", 0, PutFence::kDeath},
                      Setup{"StagedDeath", 3, PutFence::kDeath}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(PutLedger, NoPutFindsAnotherOwner) {
  Counts all;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Ledgers run(GetParam(), seed);
    for (int i = 0; i < 600 && !HasFatalFailure(); ++i) {
      run.Start();
      if (run.random() % 8 == 0) run.CancelOne();
      if (i % 200 == 120) run.Cut();
      if (i % 200 == 160) {
        ASSERT_TRUE(run.pair.fabric.Pair("decode", "prefill").ok());
      }
      run.pair.clock.AdvanceMs(1 + static_cast<int64_t>(run.random() % 40));
      run.Check();
    }
    // The weather clears; every fence there can be comes.
    run.calm = true;
    run.pair.Run(9000);
    if (GetParam().fence == PutFence::kDeath) run.pair.fabric.Kill("prefill");
    run.pair.Run(200);
    run.Check();
    EXPECT_EQ(run.received(), run.counts.started);
    EXPECT_EQ(run.sent(), run.counts.started);
    EXPECT_EQ(run.target_blocks.num_quarantined(), 0u);
    EXPECT_EQ(run.target_blocks.num_free(), run.target_blocks.usable());
    EXPECT_EQ(run.source_blocks.num_free(), run.source_blocks.usable());
    all.started += run.counts.started;
    all.completed += run.counts.completed;
    all.quarantined += run.counts.quarantined;
  }
  EXPECT_GT(all.completed, 100);
  EXPECT_GT(all.quarantined, 100);
  std::cout << all.started << " transfers, " << all.completed << " completed, "
            << all.quarantined << " quarantined\n";
}

}  // namespace
}  // namespace sluice::kvtransfer
