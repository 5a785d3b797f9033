#include "router/cluster/worker_registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

// A registry that remembers what it told.
class Watched {
 public:
  explicit Watched(std::vector<FakeWorker*> workers,
                   int64_t silent_ms = 600'000, int64_t lost_ms = 600'000) {
    RegistryOptions options;
    for (FakeWorker* worker : workers) {
      options.fixed.push_back(worker->address());
    }
    options.router_id = "r";
    options.silent_ms = silent_ms;
    options.lost_ms = lost_ms;
    options.on_kv_events = [this](const std::string& instance,
                                  const v1::KvEvents& events) {
      MutexLock lock(mu_);
      events_.emplace_back(instance, events);
    };
    options.on_cache_gone = [this](const std::string& instance) {
      MutexLock lock(mu_);
      gone_.push_back(instance);
    };
    options.on_lost = [this](const std::string& instance, uint64_t generation) {
      MutexLock lock(mu_);
      lost_.emplace_back(instance, generation);
    };
    registry_ = std::make_unique<WorkerRegistry>(std::move(options));
    registry_->Start();
  }

  WorkerView Find(const std::string& instance) {
    const auto view = registry_->view();
    const WorkerView* worker = view->Find(instance);
    return worker == nullptr ? WorkerView{} : *worker;
  }
  bool WaitUsable(const std::string& instance) {
    return Eventually([&] { return Find(instance).Usable(); });
  }
  std::vector<std::pair<std::string, v1::KvEvents>> events() {
    MutexLock lock(mu_);
    return events_;
  }
  std::vector<std::string> gone() {
    MutexLock lock(mu_);
    return gone_;
  }
  std::vector<std::pair<std::string, uint64_t>> lost() {
    MutexLock lock(mu_);
    return lost_;
  }
  WorkerRegistry& registry() { return *registry_; }

 private:
  Mutex mu_;
  std::vector<std::pair<std::string, v1::KvEvents>> events_
      ABSL_GUARDED_BY(mu_);
  std::vector<std::string> gone_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<std::string, uint64_t>> lost_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<WorkerRegistry> registry_;
};

TEST(WorkerRegistryTest, LearnsAWorkerAndItsModel) {
  FakeWorker worker("w0", v1::DECODE);
  worker.Report([](v1::WorkerReport& r) {
    r.mutable_credits()->set_sequence_slots(7);
    r.mutable_load()->set_running_seqs(3);
  });
  Watched watched({&worker});
  ASSERT_TRUE(watched.WaitUsable("w0"));
  const WorkerView view = watched.Find("w0");
  EXPECT_EQ(view.role, WorkerRole::kDecode);
  EXPECT_TRUE(view.credits.known);
  EXPECT_EQ(view.credits.slots, 7u);
  EXPECT_EQ(view.load.running_seqs, 3u);
  EXPECT_EQ(view.block_tokens, 4u);
  EXPECT_EQ(view.kv_fingerprint, std::string(32, '\x17'));
  const auto served = watched.registry().view();
  EXPECT_EQ(served->models.at("m")->max_context(), 1000u);
}

TEST(WorkerRegistryTest, FollowsStateAndReasons) {
  FakeWorker worker("w0", v1::PREFILL);
  Watched watched({&worker});
  ASSERT_TRUE(watched.WaitUsable("w0"));
  worker.Report([](v1::WorkerReport& r) { r.add_reasons("no_peer"); });
  EXPECT_TRUE(Eventually([&] { return !watched.Find("w0").Usable(); }));
  EXPECT_TRUE(watched.Find("w0").Usable(/*without_peer=*/true));
  worker.Report([](v1::WorkerReport& r) {
    r.clear_reasons();
    r.set_state(v1::DRAINING);
  });
  EXPECT_TRUE(Eventually(
      [&] { return watched.Find("w0").phase == WorkerPhase::kDraining; }));
  EXPECT_FALSE(watched.Find("w0").Usable(true));
}

TEST(WorkerRegistryTest, FirstEventsAreASnapshot) {
  FakeWorker worker("w0", v1::MIXED);
  Watched watched({&worker});
  ASSERT_TRUE(watched.WaitUsable("w0"));
  worker.Report([](v1::WorkerReport& r) { r.mutable_events()->add_stored(5); });
  ASSERT_TRUE(Eventually([&] { return watched.events().size() == 2; }));
  EXPECT_TRUE(watched.events()[0].second.cleared());
  EXPECT_FALSE(watched.events()[1].second.cleared());
  EXPECT_EQ(watched.events()[1].second.stored(0), 5u);
}

TEST(WorkerRegistryTest, GreaterGenerationReplacesSmallerIsStale) {
  FakeWorker worker("w0", v1::MIXED);
  Watched watched({&worker});
  ASSERT_TRUE(watched.WaitUsable("w0"));
  worker.Report(
      [](v1::WorkerReport& r) { r.mutable_identity()->set_generation(5); });
  ASSERT_TRUE(Eventually([&] {
    return watched.Find("w0").generation == 5 && watched.Find("w0").Usable();
  }));
  EXPECT_EQ(watched.Find("w0").num_reports, 1u);
  EXPECT_EQ(watched.lost(),
            (std::vector<std::pair<std::string, uint64_t>>{{"w0", 1}}));
  worker.Report([](v1::WorkerReport& r) {
    r.mutable_identity()->set_generation(4);
    r.mutable_load()->set_running_seqs(99);
  });
  worker.Report([](v1::WorkerReport& r) {
    r.mutable_identity()->set_generation(5);
    r.mutable_load()->set_running_seqs(1);
  });
  ASSERT_TRUE(Eventually([&] { return watched.Find("w0").num_reports == 2; }));
  EXPECT_EQ(watched.Find("w0").load.running_seqs, 1u);
  EXPECT_EQ(watched.lost().size(), 1u);
}

TEST(WorkerRegistryTest, LostWorkerTakesItsCacheAlong) {
  FakeWorker worker("w0", v1::MIXED);
  Watched watched({&worker});
  ASSERT_TRUE(watched.WaitUsable("w0"));
  worker.Kill();
  EXPECT_TRUE(Eventually(
      [&] { return watched.Find("w0").phase == WorkerPhase::kLost; }));
  EXPECT_TRUE(Eventually([&] { return !watched.gone().empty(); }));
  // Its model is still known: requests get UNAVAILABLE, not NOT_FOUND.
  const auto after = watched.registry().view();
  EXPECT_EQ(after->models.count("m"), 1u);
}

TEST(WorkerRegistryTest, SilenceIsToldInTwoSteps) {
  FakeWorker worker("w0", v1::MIXED);
  Watched watched({&worker}, /*silent_ms=*/1000, /*lost_ms=*/1500);
  ASSERT_TRUE(Eventually([&] { return watched.Find("w0").generation == 1; }));
  EXPECT_TRUE(Eventually(
      [&] { return watched.Find("w0").phase == WorkerPhase::kSilent; }));
  EXPECT_TRUE(Eventually([&] { return watched.lost().size() == 1; }));
  worker.Report([](v1::WorkerReport&) {});
  EXPECT_TRUE(Eventually(
      [&] { return watched.Find("w0").phase == WorkerPhase::kServing; }));
  // It may stand still again.
  EXPECT_TRUE(Eventually([&] { return watched.lost().size() == 2; }));
}

TEST(WorkerRegistryTest, BadReportsAndCardsAreNotBelieved) {
  struct Case {
    void (*report)(v1::WorkerReport&);
    void (*card)(v1::ModelCard&);
  };
  for (const Case& c : std::vector<Case>{
           {[](auto& r) { r.mutable_identity()->set_generation(0); },
            [](auto&) {}},
           {[](auto& r) { r.mutable_identity()->clear_instance(); },
            [](auto&) {}},
           {[](auto& r) { r.mutable_identity()->set_model_digest("short"); },
            [](auto&) {}},
           {[](auto&) {}, [](auto& c) { c.set_max_context(0); }},
           {[](auto&) {},
            [](auto& c) { c.set_model_digest(std::string(32, 'x')); }},
           {[](auto&) {},
            [](auto& c) { c.mutable_tokenizer()->set_kind("odd"); }}}) {
    FakeWorker worker("w0", v1::MIXED);
    worker.Report(c.report);
    v1::ModelCard card = ByteModelCard();
    c.card(card);
    worker.set_card(card);
    FakeWorker good("w1", v1::MIXED);
    Watched watched({&worker, &good});
    ASSERT_TRUE(watched.WaitUsable("w1"));
    EXPECT_FALSE(watched.Find("w0").Usable());
    const auto now = watched.registry().view();
    EXPECT_EQ(now->models.size(), 1u);
  }
}

TEST(WorkerRegistryTest, StopsWithAWorkerThatIsNotThere) {
  RegistryOptions options;
  options.fixed = {"127.0.0.1:1"};
  WorkerRegistry registry(std::move(options));
  registry.Start();
  registry.Stop();
  registry.Stop();
  const auto view = registry.view();
  EXPECT_TRUE(view->workers.empty());
}

TEST(ParseCardTest, DigestMustFit) {
  const std::string content = ByteModelCard().SerializeAsString();
  EXPECT_EQ(ParseCard(content, "00").status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace sluice::router
