// Random workloads over small pools: everything ends, streams equal those of
// an undisturbed run, the ledger balances (KV cache specification, 12.6-12.8).
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/scheduler_rig.h"

namespace sluice::worker {
namespace {

Request RandomRequest(std::mt19937& rng, uint32_t longest) {
  Request request;
  // Few seeds: many prompts share a prefix.
  request.prompt = Tokens(1 + rng() % longest, rng() % 4);
  request.sampling.max_tokens = static_cast<int32_t>(1 + rng() % 20);
  request.sampling.n = rng() % 4 == 0 ? static_cast<int32_t>(2 + rng() % 2) : 1;
  request.sampling.seed = rng() % 3;
  request.sampling.logprobs = rng() % 3 == 0 ? 0 : -1;
  request.sampling.prompt_logprobs = rng() % 6 == 0 ? 0 : -1;
  request.priority = static_cast<int32_t>(rng() % 5) - 2;
  request.cache_salt = rng() % 8 == 0 ? "none" : rng() % 8 == 0 ? "s" : "";
  const uint32_t phase = rng() % 4;
  if (phase == 0) request.phase = RequestPhase::kPrefill;
  if (phase == 1 && request.sampling.n == 1) {
    request.phase = RequestPhase::kDecode;
  }
  return request;
}

// The streams of `requests` without company, in a large pool.
std::vector<std::vector<TokenId>> Alone(const Request& request,
                                        const SchedulerRig::Options& options) {
  SchedulerRig rig(
      {.usable_blocks = 200,
       .block_tokens = options.block_tokens,
       .max_batch_tokens = 4096,
       .model_length = std::min(options.model_length,
                                options.usable_blocks * options.block_tokens),
       .eos_in = options.eos_in});
  Request plain = request;
  plain.key = 0;
  plain.phase = RequestPhase::kBoth;
  const RequestKey key = rig.Submit(plain);
  rig.RunAll();
  return rig.streams[key].tokens;
}

// A failed receive, whose source may write on or not.
void FailRemote(SchedulerRig& rig, std::mt19937& rng, RequestKey key,
                const absl::Status& cause, bool recompute) {
  rig.reservations.erase(key);
  if (rng() % 2 == 0) {
    rig.scheduler->RemoteFailed(key, cause, recompute, rig.now_us);
  } else {
    rig.scheduler->RemoteQuarantined(key, cause, recompute, rig.now_us);
    rig.quarantined.push_back(key);
  }
  rig.Settle();
}

void AnswerHandover(SchedulerRig& rig, std::mt19937& rng) {
  // In any order, some of them late.
  std::shuffle(rig.quarantined.begin(), rig.quarantined.end(), rng);
  while (!rig.quarantined.empty() && rng() % 3 != 0) {
    rig.scheduler->RemoteReleased(rig.quarantined.back());
    rig.quarantined.pop_back();
    rig.Settle();
  }
  for (RequestKey key : std::exchange(rig.withdrawn, {})) {
    FailRemote(rig, rng, key, absl::CancelledError(), false);
  }
  if (rng() % 3 == 0 && !rig.reservations.empty()) {
    FailRemote(rig, rng, rig.reservations.begin()->first,
               absl::DataLossError("bad"), true);
  }
  rig.CompleteReservations();
  for (auto& [key, first] : std::exchange(rig.first_tokens, {})) {
    rig.scheduler->ReleaseHeld(key);
    rig.Settle();
  }
  for (auto& [key, status] : std::exchange(rig.prefill_failed, {})) {
    rig.scheduler->ReleaseHeld(key);
    rig.Settle();
  }
}

// `ahead`: with two steps launched wherever the scheduler allows it.
void Walk(uint32_t seed, const SchedulerRig::Options& options, bool ahead) {
  SCOPED_TRACE(absl::StrCat("seed ", seed, " blocks ", options.usable_blocks,
                            ahead ? " ahead" : ""));
  std::mt19937 rng(seed);
  SchedulerRig rig(options);
  const uint32_t limit = options.usable_blocks * options.block_tokens - 1;
  std::vector<RequestKey> keys;
  std::vector<RequestKey> cancelled;
  for (int op = 0; op < 400; ++op) {
    rig.now_us += rng() % 2000000;
    const uint32_t what = rng() % 10;
    if (what < 2 && keys.size() < 25) {
      keys.push_back(rig.Submit(RandomRequest(rng, std::min(limit, 60u))));
    } else if (what == 2 && !keys.empty() && rng() % 3 == 0) {
      cancelled.push_back(keys[rng() % keys.size()]);
      rig.Cancel(cancelled.back());
    } else if (what == 3) {
      AnswerHandover(rig, rng);
    } else {
      ahead ? rig.StepAhead() : rig.Step();
    }
  }
  for (int turn = 0; turn < 5000; ++turn) {
    if (!(ahead ? rig.StepAhead() : rig.Step()) &&
        rig.scheduler->Counts(rig.now_us).live_requests == 0 &&
        rig.first_tokens.empty() && rig.prefill_failed.empty() &&
        rig.withdrawn.empty() && rig.quarantined.empty()) {
      break;
    }
    if (turn % 4 == 0) AnswerHandover(rig, rng);
  }
  EXPECT_EQ(rig.scheduler->blocks().num_active(), 0);
  EXPECT_EQ(rig.scheduler->blocks().num_quarantined(), 0);
  for (RequestKey key : keys) {
    const Stream& stream = rig.streams[key];
    ASSERT_TRUE(stream.status.has_value()) << key;
    const Request& request = rig.requests[key];
    if (!stream.status->ok() || request.phase == RequestPhase::kPrefill) {
      EXPECT_TRUE(stream.status->ok() ||
                  stream.status->code() == absl::StatusCode::kCancelled)
          << *stream.status;
      continue;
    }
    EXPECT_EQ(stream.tokens, Alone(request, options)) << key;
  }
}

TEST(SchedulerWalkTest, SmallestPools) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    for (const bool ahead : {false, true}) {
      Walk(seed,
           {.usable_blocks = 2 + seed % 9,
            .max_batch_seqs = 1 + seed % 5,
            .max_batch_tokens = 12,
            .eos_in = seed % 2 == 0 ? 15u : 0u},
           ahead);
    }
  }
}

TEST(SchedulerWalkTest, MediumPoolsWithAging) {
  for (uint32_t seed = 100; seed < 120; ++seed) {
    for (const bool ahead : {false, true}) {
      Walk(seed,
           {.usable_blocks = 12 + seed % 30,
            .block_tokens = seed % 2 == 0 ? 4u : 8u,
            .max_batch_seqs = 2 + seed % 7,
            .max_batch_tokens = 16 + seed % 40,
            .chunk_tokens = seed % 3 == 0 ? 8u : 0u,
            .aging_ms = 500,
            .eos_in = seed % 2 == 0 ? 15u : 0u},
           ahead);
    }
  }
}

TEST(SchedulerWalkTest, NobodyStarvesBehindUrgentTraffic) {
  SchedulerRig rig({.usable_blocks = 8, .max_batch_seqs = 1, .aging_ms = 100});
  const RequestKey patient = rig.Submit(Tokens(8, 1), 2, 100);
  int64_t waited_ms = 0;
  while (!rig.streams[patient].status.has_value()) {
    ASSERT_LE(waited_ms, 100 * 200 + 1000);
    rig.Submit(Tokens(4, 2), 1, -100);
    rig.Step();
    rig.now_us += 100 * 1000;
    waited_ms += 100;
  }
  EXPECT_GT(waited_ms, 100 * 190);
}

}  // namespace
}  // namespace sluice::worker
