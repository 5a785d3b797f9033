// The digests that a step runner keeps of the KV it writes are those of the
// bytes, whatever schedule wrote them.

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <random>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvtransfer/append_digests.h"
#include "kvtransfer/transfer_plan.h"
#include "tests/worker/exec/rig.h"
#include "worker/engine/scheduler.h"
#include "worker/exec/step_runner.h"

namespace sluice::worker {
namespace {

using kvtransfer::AppendDigests;
using kvtransfer::RectanglePlan;
using kvtransfer::StreamPlan;

kvtransfer::LayoutManifest ManifestOf(const KvPool& pool) {
  kvtransfer::LayoutManifest manifest;
  manifest.worker = "p";
  manifest.block_tokens = pool.block_tokens();
  kvtransfer::RankManifest rank;
  rank.num_layers = static_cast<uint32_t>(pool.layout().layers);
  rank.groups = {pool.manifest_group()};
  manifest.replicas = {{.ranks = {std::move(rank)}}};
  return manifest;
}

// A runner that keeps digests, and a check of them against the bytes each time
// a layer is done, which is when a transfer may be offered it.
class KeptDigests : public LayerObserver {
 public:
  explicit KeptDigests(const RigOptions& options)
      : rig_(options),
        manifest_(ManifestOf(rig_.pool())),
        streams_(*kvtransfer::PlanStreams(manifest_, 0, manifest_, 0)),
        digests_(manifest_, 0) {
    StepRunnerOptions runner = rig_.runner_options();
    runner.digests = &digests_;
    runner.observer = this;
    auto created = StepRunner::Create(runner);
    SLUICE_CHECK(created.ok());
    runner_ = *std::move(created);
  }

  StepResult Run(const StepPlan& plan) {
    plan_ = &plan;
    auto result = runner_->Run(plan);
    SLUICE_CHECK(result.ok());
    return *std::move(result);
  }

  void OnLayersDone(uint64_t step, uint32_t layers_done) override {
    ASSERT_EQ(step, plan_->step);
    for (const PlanRow& row : plan_->rows) {
      const auto end = row.kv_before + static_cast<uint32_t>(row.tokens.size());
      for (uint32_t t = 0; t < end; t += manifest_.block_tokens) {
        CheckBlock(row, t, std::min(end, t + manifest_.block_tokens),
                   layers_done - 1);
      }
    }
  }

  Rig& rig() { return rig_; }
  uint64_t known() const { return known_; }
  uint64_t unknown() const { return unknown_; }

 private:
  void CheckBlock(const PlanRow& row, uint32_t t0, uint32_t t1,
                  uint32_t layer) {
    const uint32_t block = row.blocks[t0 / manifest_.block_tokens];
    const StreamPlan& stream = streams_[0];
    uint64_t kept = 0;
    if (!digests_.Add({.group = stream.groups.data(),
                       .block = block,
                       .num_tokens = t1 - t0,
                       .l0 = layer,
                       .l1 = layer + 1},
                      kept)) {
      ++unknown_;
      return;
    }
    ++known_;
    const RectanglePlan plan(stream, {t0, t1, layer, layer + 1});
    uint64_t fresh = 0;
    for (uint32_t i = 0; i < plan.num_runs(); ++i) {
      const RectanglePlan::Run run = plan.run(i);
      fresh += kvtransfer::DigestRun(
          run.shape, stream.groups[0].source.layout.inner_order,
          reinterpret_cast<const std::byte*>(rig_.pool().base()) +
              plan.SourceOffset(run,
                                {.ids = {&block, 1},
                                 .first_index = t0 / manifest_.block_tokens}));
    }
    EXPECT_EQ(kept, fresh) << "step " << plan_->step << " sequence " << row.seq
                           << " tokens " << t0 << "-" << t1 << " layer "
                           << layer;
  }

  Rig rig_;
  const kvtransfer::LayoutManifest manifest_;
  const std::vector<StreamPlan> streams_;
  AppendDigests digests_;
  std::unique_ptr<StepRunner> runner_;
  const StepPlan* plan_ = nullptr;
  uint64_t known_ = 0;
  uint64_t unknown_ = 0;
};

RigOptions Options(uint32_t block_tokens, kernels::KvDtype dtype,
                   uint32_t num_blocks) {
  return {.model = SharedModel(TinyModelPath("llama"), false),
          .kv_dtype = dtype,
          .threads = 2,
          .block_tokens = block_tokens,
          .num_blocks = num_blocks,
          .max_batch_seqs = 8,
          .max_batch_tokens = 192,
          .digest_logits = false};
}

std::vector<TokenId> Tokens(uint32_t count, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(rng() % 512);
  return tokens;
}

struct WalkArgs {
  uint32_t block_tokens = 16;
  kernels::KvDtype dtype = kernels::KvDtype::kBF16;
  uint32_t seed = 0;
  bool prefill_only = true;
};

struct Walked {
  int preempted = 0;
  int cache_hits = 0;
  uint64_t known = 0;
  uint64_t unknown = 0;
};

// Random requests over a small pool through the real scheduler.
class Walk {
 public:
  explicit Walk(const WalkArgs& args)
      : args_(args),
        rng_(args.seed),
        num_blocks_(1 + 640 / args.block_tokens),
        digests_(Options(args.block_tokens, args.dtype, num_blocks_)) {
    auto created = Scheduler::Create(
        {.limits = {.max_batch_seqs = 8,
                    .max_batch_tokens = 192,
                    .chunk_tokens = args.seed % 2 == 0 ? 64u : 0u,
                    .block_tokens = args.block_tokens},
         .num_blocks = num_blocks_,
         .model_length = 512,
         .vocab = 512,
         .eos_ids = {1},
         .kv_fingerprint = std::string(32, 'k')});
    SLUICE_CHECK(created.ok());
    scheduler_ = *std::move(created);
  }

  Walked Run() {
    for (int turn = 0; turn < 60; ++turn) {
      if (rng_() % 2 == 0) Submit();
      Step();
      if (rng_() % 3 == 0) Release();
    }
    for (int turn = 0; turn < 400; ++turn) {
      Step();
      Release();
    }
    EXPECT_EQ(scheduler_->Counts(now_us_).live_requests, 0u);
    walked_.known = digests_.known();
    walked_.unknown = digests_.unknown();
    return walked_;
  }

 private:
  void Submit() {
    Request request;
    request.key = next_key_++;
    request.id = absl::StrCat(request.key);
    // Few seeds: many prompts share a prefix.
    request.prompt = Tokens(1 + rng_() % 300, rng_() % 3);
    request.sampling = Greedy(static_cast<int>(1 + rng_() % 12));
    request.priority = static_cast<int32_t>(rng_() % 5);
    request.phase = RequestPhase::kPrefill;
    if (!args_.prefill_only && rng_() % 3 != 0) {
      request.phase = RequestPhase::kBoth;
      request.sampling.n = static_cast<int32_t>(1 + rng_() % 3);
    }
    scheduler_->Submit(std::move(request), now_us_, 0);
    Settle();
  }

  void Step() {
    now_us_ += 1000;
    const SchedulePlan plan = scheduler_->Plan(now_us_);
    if (plan.empty()) return;
    const CommittedStep step = scheduler_->Commit(plan, now_us_);
    if (!step.plan->rows.empty()) {
      scheduler_->Retire(*step.plan, digests_.Run(*step.plan), now_us_);
    }
    Settle();
  }

  // Ends the transfers of prompts that are done.
  void Release() {
    for (const RequestKey key : std::exchange(held_, {})) {
      scheduler_->ReleaseHeld(key);
    }
    Settle();
  }

  void Settle() {
    for (const SchedulerEvent& event : scheduler_->TakeEvents()) {
      if (const auto* started = std::get_if<StartedEvent>(&event)) {
        walked_.cache_hits += started->cached_tokens > 0;
      }
      if (std::holds_alternative<PreemptedEvent>(event)) ++walked_.preempted;
      if (const auto* first = std::get_if<FirstTokensEvent>(&event)) {
        held_.push_back(first->key);
      }
    }
    const absl::Status status = scheduler_->CheckInvariants();
    ASSERT_TRUE(status.ok()) << status;
  }

  const WalkArgs args_;
  std::mt19937 rng_;
  const uint32_t num_blocks_;
  KeptDigests digests_;
  std::unique_ptr<Scheduler> scheduler_;
  int64_t now_us_ = 1;
  RequestKey next_key_ = 1;
  std::vector<RequestKey> held_;
  Walked walked_;
};

TEST(KeptDigests, AreThoseOfTheBytesAfterAnySchedule) {
  for (const bool prefill_only : {true, false}) {
    Walked all;
    for (const uint32_t block_tokens : {16u, 64u}) {
      for (const kernels::KvDtype dtype :
           {kernels::KvDtype::kBF16, kernels::KvDtype::kF32}) {
        for (uint32_t seed = 0; seed < 4; ++seed) {
          SCOPED_TRACE(absl::StrCat(block_tokens, " tokens, seed ", seed));
          const Walked one = Walk({.block_tokens = block_tokens,
                                   .dtype = dtype,
                                   .seed = seed,
                                   .prefill_only = prefill_only})
                                 .Run();
          // What is sent is always known: only copies of blocks are not.
          EXPECT_TRUE(!prefill_only || one.unknown == 0) << one.unknown;
          all.preempted += one.preempted;
          all.cache_hits += one.cache_hits;
          all.known += one.known;
          all.unknown += one.unknown;
        }
      }
    }
    // A prompt gives way to decoded tokens only.
    EXPECT_TRUE(prefill_only || all.preempted > 0);
    EXPECT_GT(all.cache_hits, 0);
    EXPECT_GT(all.known, 10000u);
    EXPECT_EQ(all.unknown == 0, prefill_only) << "blocks were copied";
  }
}

// A block whose old contents were as long as what is copied into it.
TEST(KeptDigests, OfACopiedBlockAreForgotten) {
  KeptDigests digests(Options(16, kernels::KvDtype::kBF16, 8));
  StepPlan plan;
  plan.step = 1;
  for (const SequenceKey seq : {1, 2}) {
    plan.starts.push_back(
        digests.rig().StartOf(seq, Tokens(10, seq), Greedy(4)));
    plan.rows.push_back({.seq = seq,
                         .tokens = Tokens(10, seq),
                         .blocks = {static_cast<BlockId>(seq)},
                         .samples = {}});
  }
  digests.Run(plan);
  const uint64_t known = digests.known();
  EXPECT_GT(known, 0u);
  EXPECT_EQ(digests.unknown(), 0u);
  StepPlan copy;
  copy.step = 2;
  copy.copies = {{.from = 1, .to = 2}};
  copy.rows.push_back(
      {.seq = 1, .kv_before = 10, .tokens = {7}, .blocks = {2}, .samples = {}});
  digests.Run(copy);
  EXPECT_EQ(digests.known(), known);
  EXPECT_GT(digests.unknown(), 0u);
}

}  // namespace
}  // namespace sluice::worker
