// The engine thread: messages in, sinks and hand-over out, clocks, the end.
#include "worker/engine/engine.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/grpc_status.h"
#include "base/mutex.h"
#include "base/sha256.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/fake_model.h"
#include "tests/worker/engine/scheduler_rig.h"
#include "worker/engine/engine_metrics.h"

namespace sluice::worker {
namespace {

constexpr uint32_t kBlockTokens = 8;
constexpr uint32_t kBlocks = 65;

class RecordingSink final : public TokenSink {
 public:
  void OnStarted(uint32_t) override { Note("started"); }
  void OnPromptLogprobs(std::vector<TokenLogprobs>) override {
    Note("prompt_logprobs");
  }
  void OnTokens(TokenRun run) override {
    MutexLock lock(mu_);
    tokens_[run.choice].insert(tokens_[run.choice].end(), run.tokens.begin(),
                               run.tokens.end());
    changed_.NotifyAll();
  }
  void OnPreempted() override {}
  void OnChoiceEnded(const ChoiceEnding&) override { Note("ended"); }
  void OnFinished(const absl::Status& status, const Usage& usage) override {
    MutexLock lock(mu_);
    ++finished_;
    status_ = status;
    usage_ = usage;
    changed_.NotifyAll();
  }

  absl::Status Wait() {
    MutexLock lock(mu_);
    while (finished_ == 0) changed_.Wait(mu_);
    return status_;
  }
  void WaitForTokens(size_t count) {
    MutexLock lock(mu_);
    while (tokens_[0].size() < count) changed_.Wait(mu_);
  }
  void WaitForNote(const std::string& note) {
    MutexLock lock(mu_);
    while (notes_.empty() || notes_.back() != note) changed_.Wait(mu_);
  }
  int finished() {
    MutexLock lock(mu_);
    return finished_;
  }
  std::vector<TokenId> tokens() {
    MutexLock lock(mu_);
    return tokens_[0];
  }
  std::vector<std::string> notes() {
    MutexLock lock(mu_);
    return notes_;
  }
  Usage usage() {
    MutexLock lock(mu_);
    return usage_;
  }

 private:
  void Note(std::string note) {
    MutexLock lock(mu_);
    notes_.push_back(std::move(note));
    changed_.NotifyAll();
  }

  Mutex mu_;
  CondVar changed_;
  int finished_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  Usage usage_ ABSL_GUARDED_BY(mu_);
  std::map<uint32_t, std::vector<TokenId>> tokens_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mu_);
};

// Runs steps inside Wait(). Calls `before` first, on the engine thread.
class FakeExecutor final : public Executor {
 public:
  FakeExecutor()
      : model({.num_blocks = kBlocks,
               .block_tokens = kBlockTokens,
               .vocab = 1000,
               .eos = 2}) {}
  void Launch(std::shared_ptr<const StepPlan> plan) override {
    launched_.push_back(std::move(plan));
    EXPECT_LE(launched_.size(), 2u);
    if (launched_.size() == 2) ++launched_behind;
    ++launches;
  }
  absl::Status Wait(StepResult* result) override {
    const std::shared_ptr<const StepPlan> plan = launched_.front();
    launched_.pop_front();
    if (before) {
      if (absl::Status status = before(*plan); !status.ok()) {
        model.Run(*plan);  // keeps its sequences in step
        return status;
      }
    }
    *result = model.Run(*plan);
    if (compute_us) result->compute_us = compute_us(*plan);
    return absl::OkStatus();
  }

  FakeModel model;
  std::function<absl::Status(const StepPlan&)> before;
  std::function<int64_t(const StepPlan&)> compute_us;
  std::atomic<int> launches{0};
  std::atomic<int> launched_behind{0};

 private:
  std::deque<std::shared_ptr<const StepPlan>> launched_;
};

// Answers as a test wants, on the engine thread.
class FakeHandoff final : public KvHandoff {
 public:
  void OnReserved(const RemoteReservation& reservation) override {
    Add("reserved", reservation.key);
    if (on_reserved) on_reserved(reservation);
  }
  void OnWithdrawn(RequestKey key, const absl::Status&) override {
    Add("withdrawn", key);
  }
  void OnChunkLaunched(const PromptChunk& chunk) override {
    Add("launched", chunk.key);
    if (on_launched) on_launched(chunk);
  }
  void OnChunkDone(RequestKey key, uint64_t) override { Add("done", key); }
  void OnFirstTokens(RequestKey key, const FirstTokens&) override {
    Add("first", key);
  }
  void OnPrefillFailed(RequestKey key, const absl::Status&) override {
    Add("failed", key);
  }

  void WaitFor(const std::string& what) {
    MutexLock lock(mu_);
    while (calls_.empty() || calls_.back() != what) changed_.Wait(mu_);
  }
  std::vector<std::string> calls() {
    MutexLock lock(mu_);
    return calls_;
  }

  std::function<void(const RemoteReservation&)> on_reserved;
  std::function<void(const PromptChunk&)> on_launched;

 private:
  void Add(const std::string& what, RequestKey key) {
    MutexLock lock(mu_);
    calls_.push_back(what + " " + std::to_string(key));
    changed_.NotifyAll();
  }

  Mutex mu_;
  CondVar changed_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mu_);
};

EngineOptions SmallOptions() {
  EngineOptions options;
  options.num_blocks = kBlocks;
  options.block_tokens = kBlockTokens;
  options.model_length = 400;
  options.vocab = 1000;
  options.eos_ids = {2};
  options.kv_fingerprint = ToBytes(Sha256Of("fake"));
  options.max_batch_seqs = 8;
  options.max_batch_tokens = 64;
  return options;
}

class EngineTest : public testing::Test {
 protected:
  EngineStats Stats() const {
    const auto stats = engine_->stats();
    return *stats;
  }

  void Start() { Start(SmallOptions()); }
  void Start(const EngineOptions& options) {
    Engine::Parts parts{.executor = &executor_,
                        .handoff = with_handoff_ ? &handoff_ : nullptr,
                        .clock = &clock_,
                        .metrics = &metrics_,
                        .cache_events = cache_events_};
    auto engine = Engine::Create(options, parts);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    thread_ = std::thread([this] { engine_->Run(); });
  }
  void TearDown() override {
    if (!thread_.joinable()) return;
    engine_->Stop();
    thread_.join();
  }

  std::shared_ptr<RecordingSink> Submit(Request request) {
    auto sink = std::make_shared<RecordingSink>();
    engine_->Submit(std::move(request), sink);
    return sink;
  }
  static Request Make(RequestKey key, uint32_t prompt, int32_t max_tokens) {
    Request request;
    request.key = key;
    request.id = "r";
    request.prompt = Tokens(prompt, static_cast<uint32_t>(key));
    request.sampling.max_tokens = max_tokens;
    return request;
  }
  // As far as it is told by the last published snapshot.
  void WaitUntilIdle() {
    while (Stats().live_requests > 0 || Stats().active_blocks > 0) {
      std::this_thread::yield();
    }
  }

  bool with_handoff_ = true;
  FakeClock clock_;
  FakeExecutor executor_;
  FakeHandoff handoff_;
  MetricRegistry registry_;
  EngineMetrics metrics_{registry_, {.model_name = "m", .model_length = 400}};
  std::function<void(PrefixCacheEvents)> cache_events_;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
};

TEST_F(EngineTest, ManyRequestsFromManyThreads) {
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks(40);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t, &sinks] {
      for (int i = t; i < 40; i += 4) {
        sinks[i] = Submit(Make(static_cast<RequestKey>(i) + 1, 5 + i, 12));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 40; ++i) {
    EXPECT_TRUE(sinks[i]->Wait().ok());
    EXPECT_EQ(sinks[i]->finished(), 1);
    std::vector<TokenId> tokens = Tokens(5 + i, i + 1);
    const auto prompt = static_cast<uint32_t>(tokens.size());
    for (int p = 0; p < 12; ++p) {
      tokens.push_back(executor_.model.Next(0, tokens, prompt));
    }
    EXPECT_EQ(sinks[i]->tokens(),
              std::vector<TokenId>(tokens.begin() + prompt, tokens.end()));
    EXPECT_EQ(sinks[i]->notes(),
              (std::vector<std::string>{"started", "ended"}));
  }
  WaitUntilIdle();
  EXPECT_EQ(metrics_.generation_tokens->value(), 40 * 12);
  EXPECT_EQ(metrics_.finished_length->value(), 40);
  EXPECT_EQ(metrics_.prompt_tokens->value(),
            metrics_.prompt_local_compute->value() +
                metrics_.prompt_local_cache_hit->value() +
                metrics_.prompt_external->value());
  EXPECT_EQ(metrics_.ledger_violations->value(), 0);
  EXPECT_EQ(Stats().ledger_violations, 0);
}

TEST_F(EngineTest, NextStepIsLaunchedBehindADecodeStep) {
  Start();
  EXPECT_TRUE(Submit(Make(1, 20, 30))->Wait().ok());
  WaitUntilIdle();
  // A step each token; all behind another but for that of the prompt, the one
  // after it, and the last, which needs no successor.
  EXPECT_EQ(executor_.launches, 30);
  EXPECT_EQ(executor_.launched_behind, 28);

  // A draw that ends the sequence: the row behind it is computed for nobody.
  executor_.model.edit = [](SampledToken& token, uint32_t position) {
    if (position == 25) token.token = 2;
  };
  auto stopped = Submit(Make(2, 20, 30));
  EXPECT_TRUE(stopped->Wait().ok());
  EXPECT_EQ(stopped->tokens().size(), 6u);
  EXPECT_EQ(stopped->tokens().back(), 2);
  EXPECT_EQ(stopped->usage().completion_tokens, 6u);

  WaitUntilIdle();
  executor_.model.edit = [](SampledToken& token, uint32_t position) {
    if (position == 26) token.status = kernels::SampleStatus::kNotFinite;
  };
  EXPECT_EQ(
      Submit(Make(3, 20, 30))->Wait(),
      absl::InternalError("logits of request r at position 26 are not finite"));
  WaitUntilIdle();
  EXPECT_EQ(metrics_.ledger_violations->value(), 0);
}

// The wait before a step is launched behind another follows what steps take,
// and forgets at once what one of them took.
TEST_F(EngineTest, OneSlowStepDoesNotSlowThoseBehindIt) {
  executor_.compute_us = [](const StepPlan& plan) {
    return plan.step == 2 ? 1'000'000 : 1000;
  };
  Start();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Submit(Make(1, 20, 60))->Wait().ok());
  // Once 0.75 s, in place of 7 s and more.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(4));
}

TEST_F(EngineTest, CancelWhileAStepRuns) {
  std::atomic<bool> cancelled{false};
  executor_.before = [&](const StepPlan& plan) {
    if (plan.step == 3) {
      engine_->Cancel(1, absl::CancelledError("client left"));
      cancelled = true;
    }
    return absl::OkStatus();
  };
  Start();
  auto gone = Submit(Make(1, 20, 300));
  auto stays = Submit(Make(2, 20, 20));
  EXPECT_EQ(gone->Wait(), absl::CancelledError("client left"));
  EXPECT_TRUE(cancelled);
  EXPECT_TRUE(stays->Wait().ok());
  WaitUntilIdle();
  EXPECT_EQ(gone->finished(), 1);
  EXPECT_GT(gone->usage().completion_tokens, 0);
  EXPECT_EQ(metrics_.finished_abort->value(), 1);
}

TEST_F(EngineTest, DeadlineFiresWithNoOtherTraffic) {
  Start();
  Request request = Make(1, 20, 5);
  request.phase = RequestPhase::kDecode;
  request.deadline_us = clock_.NowMicros() + 5'000'000;
  auto sink = Submit(request);
  handoff_.WaitFor("reserved 1");
  clock_.AdvanceMs(4999);
  EXPECT_EQ(sink->finished(), 0);
  clock_.AdvanceMs(1);
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kDeadlineExceeded);
  handoff_.WaitFor("withdrawn 1");
  EXPECT_GT(Stats().active_blocks, 0);
  engine_->RemoteFailed(1, absl::CancelledError("stopped"), false);
  WaitUntilIdle();
}

TEST_F(EngineTest, AQuarantineIsSeenUntilItsRelease) {
  Start();
  Request request = Make(1, 20, 5);
  request.phase = RequestPhase::kDecode;
  auto sink = Submit(request);
  handoff_.WaitFor("reserved 1");
  engine_->RemoteQuarantined(1, absl::UnavailableError("peer"), false);
  EXPECT_EQ(sink->Wait(), absl::UnavailableError("peer"));
  // The engine looks at its clock again and again; some turn publishes it.
  clock_.AdvanceMs(40'000);
  while (Stats().oldest_quarantine_us < 40'000'000) std::this_thread::yield();
  EngineStats stats = Stats();
  EXPECT_GT(stats.quarantined_blocks, 0);
  EXPECT_EQ(stats.active_blocks, 0);
  engine_->RemoteReleased(1);
  while (Stats().quarantined_blocks > 0) std::this_thread::yield();
  EXPECT_EQ(Stats().oldest_quarantine_us, 0);
  stats.usable_blocks = 4 * stats.quarantined_blocks;
  EXPECT_FALSE(stats.quarantine_is_large());
  --stats.usable_blocks;
  EXPECT_TRUE(stats.quarantine_is_large());
  WaitUntilIdle();
}

TEST_F(EngineTest, PrefillTellsTheHandoverInOrder) {
  handoff_.on_launched = [this](const PromptChunk& chunk) {
    // No layer can be done before the hand-over knows of its chunk.
    EXPECT_EQ(static_cast<uint64_t>(executor_.launches), chunk.step - 1);
  };
  Start();
  Request request = Make(1, 100, 5);
  request.phase = RequestPhase::kPrefill;
  auto sink = Submit(request);
  handoff_.WaitFor("first 1");
  EXPECT_EQ(handoff_.calls(),
            (std::vector<std::string>{"launched 1", "done 1", "launched 1",
                                      "done 1", "first 1"}));
  EXPECT_EQ(sink->finished(), 0);
  EXPECT_EQ(Stats().held_seqs, 1);
  engine_->ReleaseHeld(1);
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_TRUE(sink->tokens().empty());
  WaitUntilIdle();
}

TEST_F(EngineTest, RemotePromptCountsAsExternal) {
  handoff_.on_reserved = [this](const RemoteReservation& reservation) {
    executor_.model.Receive(Tokens(20, 1), reservation.skip_tokens,
                            reservation.blocks);
    engine_->RemoteReady(
        1, {.tokens = {executor_.model.Next(0, Tokens(20, 1), 20)},
            .logprobs = {}});
  };
  Start();
  Request request = Make(1, 20, 5);
  request.phase = RequestPhase::kDecode;
  auto sink = Submit(request);
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens().size(), 5);
  EXPECT_EQ(metrics_.prompt_external->value(), 20);
  EXPECT_EQ(metrics_.prompt_tokens->value(), 20);
  EXPECT_EQ(metrics_.prompt_local_compute->value(), 0);
  WaitUntilIdle();
}

TEST_F(EngineTest, WithoutHandoverOnlyWholeRequests) {
  with_handoff_ = false;
  Start();
  for (RequestPhase phase : {RequestPhase::kPrefill, RequestPhase::kDecode}) {
    Request request = Make(phase == RequestPhase::kPrefill ? 1 : 2, 9, 1);
    request.phase = phase;
    EXPECT_EQ(Submit(request)->Wait(),
              absl::UnimplementedError("this worker moves no KV"));
  }
  EXPECT_TRUE(Submit(Make(3, 9, 1))->Wait().ok());
}

TEST_F(EngineTest, ExecutorErrorsReachTheirRequestsOnly) {
  executor_.before = [](const StepPlan& plan) {
    return plan.step == 2 ? absl::InternalError("rank 0 failed")
                          : absl::OkStatus();
  };
  Start();
  auto first = Submit(Make(1, 20, 5));
  EXPECT_EQ(first->Wait(), absl::InternalError("rank 0 failed"));
  EXPECT_TRUE(Submit(Make(2, 20, 5))->Wait().ok());
  WaitUntilIdle();
}

TEST_F(EngineTest, StopEndsEverythingOnce) {
  Start();
  Request remote = Make(1, 20, 5);
  remote.phase = RequestPhase::kDecode;
  auto waiting = Submit(remote);
  handoff_.WaitFor("reserved 1");
  engine_->Stop();
  thread_.join();
  EXPECT_EQ(waiting->Wait(), absl::UnavailableError("shutting down"));
  auto late = Submit(Make(2, 20, 5));
  EXPECT_EQ(late->Wait(), absl::UnavailableError("shutting down"));
  engine_->Cancel(2, absl::CancelledError("late"));
  EXPECT_EQ(late->finished(), 1);
}

TEST_F(EngineTest, DrainingFinishesWhatItHas) {
  Start();
  auto before = Submit(Make(1, 20, 50));
  before->WaitForTokens(1);
  engine_->StartDraining();
  auto after = Submit(Make(2, 20, 5));
  EXPECT_EQ(after->Wait(),
            WithReason(absl::UnavailableError("draining"), "DRAINING"));
  EXPECT_TRUE(before->Wait().ok());
  EXPECT_TRUE(Stats().draining);
}

TEST_F(EngineTest, StepLogAndCacheEvents) {
  std::atomic<int> records{0};
  EngineOptions options = SmallOptions();
  options.step_log = [&](const StepPlan& plan, const StepResult& result) {
    EXPECT_EQ(plan.rows.size(), result.sampled.size());
    ++records;
  };
  Mutex mu;
  std::vector<uint64_t> stored;
  bool cleared = false;
  cache_events_ = [&](PrefixCacheEvents events) {
    MutexLock lock(mu);
    stored.insert(stored.end(), events.stored.begin(), events.stored.end());
    cleared |= events.cleared;
  };
  Start(options);
  EXPECT_TRUE(Submit(Make(1, 17, 3))->Wait().ok());
  WaitUntilIdle();
  EXPECT_EQ(records, 3);
  engine_->ResetPrefixCache();
  EXPECT_TRUE(Submit(Make(2, 3, 1))->Wait().ok());
  MutexLock lock(mu);
  EXPECT_EQ(stored.size(), 2);
  EXPECT_TRUE(cleared);
}

TEST(EngineCreateTest, RefusesBlockSizes) {
  FakeExecutor executor;
  for (uint32_t bt : {0u, 4u, 24u, 512u}) {
    EngineOptions options = SmallOptions();
    options.block_tokens = bt;
    EXPECT_EQ(Engine::Create(options, {.executor = &executor,
                                       .handoff = nullptr,
                                       .clock = &SystemClock::Get(),
                                       .metrics = nullptr,
                                       .cache_events = nullptr})
                  .status(),
              absl::InvalidArgumentError(
                  "block_tokens must be a power of two in [8, 256], got " +
                  std::to_string(bt)));
  }
}

}  // namespace
}  // namespace sluice::worker
