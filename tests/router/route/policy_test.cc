#include "router/route/policy.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "router/cluster/served_model.h"

namespace sluice::router {
namespace {

using Outcome = RouteDecision::Outcome;

// Only its presence matters to a policy.
std::shared_ptr<const ServedModel> AnyModel() {
  return std::shared_ptr<const ServedModel>(
      reinterpret_cast<const ServedModel*>(8), [](const ServedModel*) {});
}

WorkerView Worker(const std::string& instance, WorkerRole role) {
  WorkerView worker;
  worker.instance = instance;
  worker.generation = 1;
  worker.role = role;
  worker.phase = WorkerPhase::kServing;
  worker.model = "m";
  worker.model_digest = std::string(32, 'd');
  worker.numerics_id = "x86.1/aa";
  worker.block_tokens = 4;
  worker.served = AnyModel();
  return worker;
}

void LinkBoth(WorkerView& a, WorkerView& b) {
  a.peers.push_back(
      {.instance = b.instance, .generation = b.generation, .up = true});
  b.peers.push_back(
      {.instance = a.instance, .generation = a.generation, .up = true});
}

void SetCredits(WorkerView& worker, uint64_t blocks, uint64_t tokens,
                uint32_t slots) {
  worker.load.running_seqs = 1;  // an idle worker takes anything
  worker.credits = {.known = true,
                    .blocks = blocks,
                    .prefill_tokens = tokens,
                    .slots = slots};
}

// p0, p1 linked with d0, d1; m0 mixed.
ClusterView FullView() {
  ClusterView view;
  view.workers = {
      Worker("d0", WorkerRole::kDecode), Worker("d1", WorkerRole::kDecode),
      Worker("m0", WorkerRole::kMixed), Worker("p0", WorkerRole::kPrefill),
      Worker("p1", WorkerRole::kPrefill)};
  for (int d : {0, 1}) {
    for (int p : {3, 4}) LinkBoth(view.workers[d], view.workers[p]);
  }
  return view;
}

RouteRequest Request(uint32_t prompt_tokens = 10) {
  return {.model = "m",
          .model_digest = std::string(32, 'd'),
          .prompt_tokens = prompt_tokens,
          .reserve_tokens = 8};
}

std::string Choose(const RouteRequest& request, const ClusterView& view,
                   const std::string& policy = "", PolicyOptions options = {}) {
  const RouteDecision decision =
      (*MakeRoutePolicy(policy, options))->Choose(request, view);
  if (decision.outcome == Outcome::kWait) return "wait";
  if (decision.outcome == Outcome::kNoPath) return "no path";
  return (decision.prefill != nullptr ? decision.prefill->instance + ">"
                                      : std::string()) +
         decision.decode->instance;
}

struct Case {
  const char* name;
  Placement placement;
  void (*change)(ClusterView& view, RouteRequest& request,
                 PolicyOptions& options);
  const char* choice;  // "" : any of several
};

void Load(WorkerView& worker, uint64_t waiting_tokens) {
  worker.load.waiting_tokens = waiting_tokens;
}
constexpr int kD0 = 0, kD1 = 1, kM0 = 2, kP0 = 3, kP1 = 4;

class PairingTest : public testing::TestWithParam<Case> {};

TEST_P(PairingTest, Chooses) {
  ClusterView view = FullView();
  RouteRequest request = Request();
  PolicyOptions options;
  request.placement = GetParam().placement;
  GetParam().change(view, request, options);
  for (const char* policy : {"prefix_affinity", "least_loaded"}) {
    EXPECT_EQ(Choose(request, view, policy, options), GetParam().choice);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, PairingTest,
    testing::Values(
        Case{"LeastLoadedPair", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               Load(v.workers[kP0], 500);
               v.workers[kD1].load.running_seqs = 9;
             },
             "p1>d0"},
        Case{"LinkDown", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               for (int i : {kD0, kD1, kP0, kP1}) {
                 for (auto& peer : v.workers[i].peers) {
                   const bool keep =
                       (v.workers[i].instance == "d1" &&
                        peer.instance == "p0") ||
                       (v.workers[i].instance == "p0" && peer.instance == "d1");
                   peer.up = keep;
                 }
               }
             },
             "p0>d1"},
        Case{"LinkOfAnOlderProcess", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               for (int i : {kD0, kD1, kP0, kP1}) {
                 v.workers[i].generation = 2;
               }
             },
             "no path"},
        Case{"OneSideKnowsTheLink", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               for (int i : {kD0, kD1, kP0, kP1}) v.workers[i].peers.clear();
               v.workers[kP1].peers.push_back(
                   {.instance = "d0", .generation = 1, .up = true});
             },
             "p1>d0"},
        Case{"NumericsNeverMix", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               v.workers[kD0].numerics_id = "x86.1/bb";
               v.workers[kP1].numerics_id = "x86.1/bb";
               v.workers[kD1].load.running_seqs = 1000;
               // The idle p0 would be the best for the idle d0.
               Load(v.workers[kP1], 100);
             },
             "p1>d0"},
        Case{"DigestsNeverMix", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               v.workers[kD0].model_digest = std::string(32, 'e');
               v.workers[kP0].model_digest = std::string(32, 'e');
             },
             "p1>d1"},
        Case{"AggregatedIsMixed", Placement::kAggregated,
             [](auto& v, auto&, auto&) { Load(v.workers[kM0], 1'000'000); },
             "m0"},
        Case{"AggregatedWithoutMixed", Placement::kAggregated,
             [](auto& v, auto&, auto&) {
               v.workers[kM0].phase = WorkerPhase::kDraining;
             },
             "no path"},
        Case{"AutoPrefersTheIdle", Placement::kAuto,
             [](auto& v, auto&, auto&) {
               Load(v.workers[kP0], 900);
               Load(v.workers[kP1], 900);
             },
             "m0"},
        Case{"ShortPromptStaysMixed", Placement::kAuto,
             [](auto& v, auto&, auto& o) {
               o.min_disaggregated_tokens = 11;
               Load(v.workers[kM0], 1'000'000);
             },
             "m0"},
        Case{"LongPromptDoesNot", Placement::kAuto,
             [](auto& v, auto&, auto& o) {
               o.min_disaggregated_tokens = 10;
               Load(v.workers[kM0], 1'000'000);
               Load(v.workers[kP0], 10);
               v.workers[kD1].load.running_seqs = 9;
             },
             "p1>d0"},
        Case{"FallbackToDecodeAlone", Placement::kAuto,
             [](auto& v, auto&, auto&) {
               v.workers[kM0].phase = WorkerPhase::kLost;
               v.workers[kP0].phase = WorkerPhase::kLost;
               v.workers[kP1].phase = WorkerPhase::kSilent;
               v.workers[kD0].load.running_seqs = 9;
               v.workers[kD1].reasons = {"no_peer"};
             },
             "d1"},
        Case{"FallbackSwitchedOff", Placement::kAuto,
             [](auto& v, auto&, auto& o) {
               o.local_prefill_fallback = false;
               v.workers[kM0].phase = WorkerPhase::kLost;
               v.workers[kP0].phase = WorkerPhase::kLost;
               v.workers[kP1].phase = WorkerPhase::kLost;
             },
             "no path"},
        Case{"NoFallbackWhilePrefillLives", Placement::kAuto,
             [](auto& v, auto&, auto&) {
               v.workers[kM0].phase = WorkerPhase::kLost;
               for (int i : {kD0, kD1, kP0, kP1}) v.workers[i].peers.clear();
             },
             "no path"},
        Case{"UnreadyIsNotChosen", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               v.workers[kD0].reasons = {"pool_stuck"};
               v.workers[kP0].reasons = {"no_peer"};
             },
             "p1>d1"},
        Case{"NoCardYet", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               v.workers[kD0].served = nullptr;
               v.workers[kP1].served = nullptr;
             },
             "p0>d1"},
        Case{"Avoided", Placement::kDisaggregated,
             [](auto&, auto& r, auto&) {
               r.avoid = {"p0", "d1"};
             },
             "p1>d0"},
        Case{"Pinned", Placement::kAuto,
             [](auto& v, auto& r, auto&) {
               r.pin = "m0";
               Load(v.workers[kM0], 1'000'000);
             },
             "m0"},
        Case{"OtherModel", Placement::kAuto,
             [](auto&, auto& r, auto&) { r.model = "other"; }, "no path"},
        Case{"CreditOfDecode", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               SetCredits(v.workers[kD0], 4, 0, 9);  // wants 3 + 2 blocks
               SetCredits(v.workers[kD1], 5, 0, 9);
               Load(v.workers[kP0], 5);
             },
             "p1>d1"},
        Case{"CreditOfPrefill", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               SetCredits(v.workers[kP0], 99, 9, 9);  // wants 10 tokens
               SetCredits(v.workers[kP1], 99, 10, 9);
               v.workers[kD1].load.running_seqs = 5;
             },
             "p1>d0"},
        Case{"NoCreditWaits", Placement::kDisaggregated,
             [](auto& v, auto&, auto&) {
               SetCredits(v.workers[kD0], 99, 0, 0);
               SetCredits(v.workers[kD1], 99, 0, 0);
             },
             "wait"},
        Case{"SlotsPerChoice", Placement::kAggregated,
             [](auto& v, auto& r, auto&) {
               SetCredits(v.workers[kM0], 99, 99, 2);
               r.num_choices = 3;
             },
             "wait"},
        Case{"IdleTakesAnything", Placement::kAggregated,
             [](auto& v, auto&, auto&) {
               SetCredits(v.workers[kM0], 0, 0, 0);
               v.workers[kM0].load.running_seqs = 0;
             },
             "m0"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(PolicyTest, CachedPrefixWinsUntilItsWorkerIsBusier) {
  ClusterView view = FullView();
  RouteRequest request = Request(1000);
  request.placement = Placement::kDisaggregated;
  request.avoid = {"d1"};
  request.cached_tokens["p1"] = 800;
  Load(view.workers[kP1], 799);
  EXPECT_EQ(Choose(request, view), "p1>d0");
  Load(view.workers[kP1], 801);
  EXPECT_EQ(Choose(request, view), "p0>d0");
  // The other policy does not look at prefixes.
  Load(view.workers[kP1], 1);
  EXPECT_EQ(Choose(request, view, "least_loaded"), "p0>d0");
}

TEST(PolicyTest, CachedTokensNeedNoCredit) {
  ClusterView view = FullView();
  RouteRequest request = Request(1000);
  request.placement = Placement::kDisaggregated;
  SetCredits(view.workers[kP0], 1000, 500, 9);
  SetCredits(view.workers[kP1], 1000, 500, 9);
  EXPECT_EQ(Choose(request, view), "wait");
  request.cached_tokens["p0"] = 500;
  EXPECT_EQ(Choose(request, view).substr(0, 3), "p0>");
}

TEST(PolicyTest, SpentCreditsCount) {
  ClusterView view = FullView();
  RouteRequest request = Request();
  request.placement = Placement::kAggregated;
  SetCredits(view.workers[kM0], 100, 100, 3);
  SpentByInstance spent;
  request.spent = &spent;
  EXPECT_EQ(Choose(request, view), "m0");
  for (const SpentCredits& s :
       {SpentCredits{.slots = 3}, SpentCredits{.blocks = 96},
        SpentCredits{.prefill_tokens = 91}}) {
    spent["m0"] = s;
    EXPECT_EQ(Choose(request, view), "wait");
  }
  // An idle worker with something on its way is not idle.
  view.workers[kM0].load.running_seqs = 0;
  spent["m0"] = {.slots = 3};
  EXPECT_EQ(Choose(request, view), "wait");
}

TEST(PolicyTest, SessionsStickAndSpread) {
  ClusterView view = FullView();
  RouteRequest request = Request();
  request.placement = Placement::kDisaggregated;
  int on_p0 = 0;
  for (int i = 0; i < 200; ++i) {
    request.session_id = "session " + std::to_string(i);
    request.tie_break = 0;
    const std::string first = Choose(request, view).substr(0, 2);
    // Whatever the router and the load, within reason.
    request.tie_break = 77;
    Load(view.workers[kP0], 100);
    EXPECT_EQ(Choose(request, view).substr(0, 2), first);
    Load(view.workers[kP0], 0);
    on_p0 += first == "p0";
  }
  EXPECT_GT(on_p0, 60);
  EXPECT_LT(on_p0, 140);
  // Not at any price.
  request.session_id = "session 1";
  const int own = Choose(request, view).substr(0, 2) == "p0" ? kP0 : kP1;
  Load(view.workers[own], 1'000'000);
  EXPECT_NE(Choose(request, view).substr(0, 2), view.workers[own].instance);
}

TEST(PolicyTest, EqualWorkersShareEqually) {
  const ClusterView view = FullView();
  RouteRequest request = Request();
  request.placement = Placement::kDisaggregated;
  std::map<std::string, int> counts;
  for (uint64_t i = 0; i < 400; ++i) {
    request.tie_break = i;
    ++counts[Choose(request, view)];
  }
  EXPECT_EQ(counts.size(), 4u);
  for (const auto& [pair, count] : counts) EXPECT_GT(count, 50) << pair;
}

TEST(PolicyTest, ChoiceIsPureAndNamed) {
  const ClusterView view = FullView();
  const RouteRequest request = Request();
  EXPECT_EQ(Choose(request, view), Choose(request, view));
  EXPECT_EQ((*MakeRoutePolicy("", {}))->name(), "prefix_affinity");
  EXPECT_EQ(MakeRoutePolicy("best", {}).status().message(),
            "route.policy must be prefix_affinity or least_loaded, got "
            "`best`");
}

TEST(PolicyTest, EjectedWorkersAreLeftOutUnlessTheLast) {
  const ClusterView view = FullView();
  RouteRequest request = Request();
  request.placement = Placement::kDisaggregated;
  EjectedInstances ejected = {{"p0", 1}, {"d1", 1}};
  request.ejected = &ejected;
  for (uint64_t tie = 0; tie < 50; ++tie) {
    request.tie_break = tie;
    EXPECT_EQ(Choose(request, view), "p1>d0");
  }
  // The last of a role stays, whatever it did.
  ejected = {{"p0", 1}, {"p1", 1}, {"d1", 1}};
  EXPECT_EQ(Choose(request, view).substr(2), ">d0");
  // A newer process is not the one that failed.
  ejected = {{"p0", 7}, {"p1", 1}, {"d1", 1}};
  EXPECT_EQ(Choose(request, view), "p0>d0");
  // No link joins those that are left: any path is better than none.
  ClusterView split = FullView();
  for (WorkerView& worker : split.workers) worker.peers.clear();
  LinkBoth(split.workers[kP0], split.workers[kD1]);
  ejected = {{"p0", 1}};
  EXPECT_EQ(Choose(request, split), "p0>d1");
}

}  // namespace
}  // namespace sluice::router
