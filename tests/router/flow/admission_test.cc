#include "router/flow/admission.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/grpc_status.h"

namespace sluice::router {
namespace {

// Grants on worker "w" while it has slots beyond what is spent.
class SlotPolicy final : public RoutePolicy {
 public:
  absl::string_view name() const override { return "slots"; }
  RouteDecision Choose(const RouteRequest& request,
                       const ClusterView& view) const override {
    const WorkerView* worker = view.Find("w");
    if (worker == nullptr) return {};
    RouteDecision decision;
    auto spent = request.spent->find("w");
    const uint32_t taken =
        spent == request.spent->end() ? 0 : spent->second.slots;
    decision.outcome = taken < worker->credits.slots
                           ? RouteDecision::Outcome::kChosen
                           : RouteDecision::Outcome::kWait;
    decision.decode = worker;
    return decision;
  }
};

class AdmissionTest : public testing::Test {
 protected:
  AdmissionTest() {
    Publish(1, 1);
    AdmissionOptions options;
    options.limits.max_requests = 2;
    options.view = [this] { return view_; };
    options.policy = &policy_;
    options.clock = &clock_;
    options.on_rejection = [this](const std::string&, absl::string_view why) {
      rejections_.push_back(std::string(why));
    };
    admission_ = std::make_unique<Admission>(std::move(options));
  }

  void Publish(uint32_t slots, uint64_t num_reports, uint64_t generation = 1) {
    auto view = std::make_shared<ClusterView>();
    if (generation != 0) {
      WorkerView worker;
      worker.instance = "w";
      worker.generation = generation;
      worker.credits = {.known = true, .slots = slots};
      worker.num_reports = num_reports;
      view->workers.push_back(worker);
    }
    view_ = view;
  }

  // The result of Enter(); decisions go to decided_[name].
  absl::StatusOr<uint64_t> Enter(const std::string& name,
                                 int64_t deadline_ms = 100'000) {
    AdmissionRequest request;
    request.route.model = "m";
    request.route.prompt_tokens = 1;
    request.deadline_us = clock_.NowMicros() + deadline_ms * 1000;
    request.on_decided = [this, name](absl::StatusOr<Grant> grant) {
      decided_.emplace(name, std::move(grant));
    };
    return admission_->Enter(std::move(request));
  }
  bool Granted(const std::string& name) {
    auto it = decided_.find(name);
    return it != decided_.end() && it->second.ok();
  }

  FakeClock clock_;
  SlotPolicy policy_;
  SnapshotRef<ClusterView> view_;
  std::vector<std::string> rejections_;
  std::map<std::string, absl::StatusOr<Grant>> decided_;
  std::unique_ptr<Admission> admission_;
};

TEST_F(AdmissionTest, SpendsAndGivesBackByReport) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Granted("a"));
  ASSERT_TRUE(Enter("b").ok());
  EXPECT_FALSE(Granted("b"));
  // A report before the worker took "a" does not cover it.
  Publish(1, 2);
  admission_->Pump();
  EXPECT_FALSE(Granted("b"));
  admission_->Settle(decided_.at("a")->decode_spend);
  admission_->Pump();
  EXPECT_FALSE(Granted("b"));
  Publish(1, 3);
  admission_->Pump();
  EXPECT_TRUE(Granted("b"));
  EXPECT_EQ(admission_->num_spends(), 1u);
  admission_->Release(decided_.at("b")->decode_spend);
  EXPECT_EQ(admission_->num_spends(), 0u);
}

TEST_F(AdmissionTest, ReleaseFreesAtOnce) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Enter("b").ok());
  admission_->Release(decided_.at("a")->decode_spend);
  admission_->Release(decided_.at("a")->decode_spend);  // harmless
  admission_->Release(0);
  admission_->Pump();
  EXPECT_TRUE(Granted("b"));
}

TEST_F(AdmissionTest, SpendsDieWithTheirProcess) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Enter("b").ok());
  Publish(1, 1, /*generation=*/2);
  admission_->Pump();
  EXPECT_TRUE(Granted("b"));
}

TEST_F(AdmissionTest, NobodyOvertakesTheQueue) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Enter("b").ok());
  Publish(2, 1);  // room, but "b" is first
  ASSERT_TRUE(Enter("c").ok());
  EXPECT_FALSE(Granted("c"));
  admission_->Pump();
  EXPECT_TRUE(Granted("b"));
  EXPECT_FALSE(Granted("c"));
}

TEST_F(AdmissionTest, FullQueueRefusesWithAHint) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Enter("b").ok());
  const absl::StatusOr<uint64_t> c = Enter("c");
  ASSERT_TRUE(c.ok());
  const absl::Status refused = Enter("d").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "QUEUE_FULL");
  EXPECT_GE(*RetryDelayMs(refused), 50);
  EXPECT_LE(*RetryDelayMs(refused), 30'000);
  EXPECT_TRUE(admission_->Leave(*c));
  EXPECT_FALSE(admission_->Leave(*c));
  EXPECT_TRUE(Enter("e").ok());
  EXPECT_EQ(rejections_, std::vector<std::string>{"queue_full"});
}

TEST_F(AdmissionTest, RefusesWhatCannotStartInTime) {
  ASSERT_TRUE(Enter("a").ok());
  const absl::Status refused = Enter("b", /*deadline_ms=*/20).status();
  EXPECT_EQ(ReasonOf(refused), "QUEUE_DEADLINE");
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(AdmissionTest, NoPathEndsWhatWaits) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Enter("b").ok());
  Publish(0, 0, /*generation=*/0);
  admission_->Pump();
  ASSERT_TRUE(decided_.count("b"));
  const absl::Status status = decided_.at("b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "NO_PATH");
  EXPECT_TRUE(RetryDelayMs(status).has_value());
  EXPECT_EQ(ReasonOf(Enter("c").status()), "NO_PATH");
}

TEST_F(AdmissionTest, StatsTellTheOldest) {
  ASSERT_TRUE(Enter("a").ok());
  ASSERT_TRUE(Enter("b").ok());
  clock_.AdvanceMs(2500);
  const auto stats = admission_->Stats();
  ASSERT_EQ(stats.size(), 1u);
  EXPECT_EQ(stats[0].requests, 1u);
  EXPECT_EQ(stats[0].tokens, 1u);
  EXPECT_DOUBLE_EQ(stats[0].oldest_seconds, 2.5);
}

TEST(CreditsForTest, CountsBlocksTokensAndSlots) {
  WorkerView worker;
  worker.instance = "w";
  worker.block_tokens = 4;
  RouteRequest request{
      .prompt_tokens = 9, .reserve_tokens = 5, .num_choices = 3};
  request.cached_tokens["w"] = 8;
  const SpentCredits both = CreditsFor(request, worker, true, true);
  EXPECT_EQ(both.blocks, 3u + 3 * 2);
  EXPECT_EQ(both.prefill_tokens, 1u);
  EXPECT_EQ(both.slots, 3u);
  const SpentCredits prefill = CreditsFor(request, worker, true, false);
  EXPECT_EQ(prefill.blocks, 3u);
  EXPECT_EQ(prefill.slots, 1u);
  EXPECT_EQ(CreditsFor(request, worker, false, true).prefill_tokens, 0u);
}

}  // namespace
}  // namespace sluice::router
