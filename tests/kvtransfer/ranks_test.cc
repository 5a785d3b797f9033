// Workers of several ranks, with the whole engine between their pools: every
// wire, every split, every byte of the cache compared.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kvtransfer/loopback/loopback_fabric.h"
#include "tests/kvtransfer/testing/sharded_cache.h"
#include "tests/kvtransfer/testing/threaded_pair.h"

namespace sluice::kvtransfer {
namespace {

constexpr uint64_t kSlotBytes = 64 << 10;
constexpr uint32_t kSlots = 4;

struct Case {
  CacheModel model;
  CacheSplit from;
  CacheSplit to;
  uint32_t skip = 0;
  uint32_t num_tokens = 0;

  bool possible() const {
    const int least = std::min(from.block_tokens, to.block_tokens);
    const bool tiles = from.order == InnerOrder::kCpuTiles ||
                       to.order == InnerOrder::kCpuTiles;
    return (!tiles || least >= 16) && from.stages <= model.layers &&
           to.stages <= model.layers && skip % to.block_tokens == 0 &&
           skip < num_tokens;
  }
};

std::string Describe(const CacheSplit& s) {
  return std::to_string(s.ranks) + " ranks x " + std::to_string(s.stages) +
         " stages, blocks of " + std::to_string(s.block_tokens) + " " +
         std::string(InnerOrderName(s.order));
}

// All ranks of one worker in one pool, and an engine over it.
struct Side {
  Side(const Case& c, bool sends)
      : name(sends ? "prefill" : "decode"),
        cache(c.model, sends ? c.from : c.to, c.num_tokens, sends ? 1 : 2),
        manifest(cache.manifest()) {
    manifest.worker = name;
    manifest.manifest_id = ComputeManifestId(manifest);
    const uint64_t staging = (cache.bytes().size() + 63) / 64 * 64;
    memory = *PoolMemory::Create(staging + kSlots * kSlotBytes);
    options.manifest = manifest;
    options.region = memory->region();
    options.can_send = sends;
    options.can_receive = !sends;
    options.stream_message_bytes = 1024;
    if (!sends) {
      options.staging = {
          .offset = staging, .slot_bytes = kSlotBytes, .num_slots = kSlots};
    }
  }

  std::string name;
  ShardedCache cache;
  LayoutManifest manifest;
  std::unique_ptr<PoolMemory> memory;
  EngineOptions options;
  std::unique_ptr<TransferEngine> engine;
};

// One transfer of a case, over `wire`: "pull", "stream" and "put" through the
// loopback, "shm" and "ucx" through the host.
class Transfer {
 public:
  Transfer(const Case& c, const std::string& wire)
      : case_(c), wire_(wire), source_(c, true), target_(c, false) {
    source_.cache.Fill();
    std::memcpy(source_.memory->base(), source_.cache.bytes().data(),
                source_.cache.bytes().size());
    std::memcpy(target_.memory->base(), target_.cache.bytes().data(),
                target_.cache.bytes().size());
  }

  void RunAndCompare() {
    if (wire_ == "shm" || wire_ == "ucx") {
      RunThreads();
    } else {
      RunLoopback();
    }
    ASSERT_EQ(result_.state, TransferState::kCompleted) << result_.status;
    std::vector<std::byte>& bytes = target_.cache.bytes();
    std::memcpy(bytes.data(), target_.memory->base(), bytes.size());
    EXPECT_EQ(target_.cache.CountWrong(case_.skip,
                                       std::vector<uint8_t>(bytes.size(), 1)),
              0u);
    EXPECT_EQ(target_.cache.CountStray(case_.skip), 0u);
  }

 private:
  void Start(OnTransferEnded on_ended) {
    ReceiveArgs receive;
    receive.blocks = target_.cache.blocks();
    receive.skip_tokens = case_.skip;
    receive.num_tokens = case_.num_tokens;
    receive.on_ended = std::move(on_ended);
    const auto ticket = target_.engine->StartReceive(std::move(receive));
    ASSERT_TRUE(ticket.ok()) << ticket.status();
    SendArgs send;
    send.ticket = *ticket;
    ASSERT_TRUE(source_.engine->StartSend(std::move(send)).ok());
    // As a prefill: a chunk, its layers in two parts, and the rest.
    const uint32_t half = case_.num_tokens / 2;
    const auto layers = static_cast<uint32_t>(case_.model.layers);
    const auto offer = [&](uint32_t t0, uint32_t t1, uint32_t l0, uint32_t l1) {
      if (t0 >= t1 || l0 >= l1) return;
      const auto bs = static_cast<uint32_t>(case_.from.block_tokens);
      const std::vector<uint32_t>& all = source_.cache.blocks();
      source_.engine->OfferRectangle(
          {.transfer_id = ticket->transfer_id,
           .rectangle = {t0, t1, l0, l1},
           .blocks = {all.begin() + t0 / bs,
                      all.begin() + (t1 + bs - 1) / bs}});
    };
    offer(0, half, 0, layers / 2);
    offer(0, half, layers / 2, layers);
    offer(half, case_.num_tokens, 0, layers);
  }

  void Create(Side& side, std::unique_ptr<Transport> transport,
              ControlLink* control, const Clock* clock) {
    side.options.transports.push_back(std::move(transport));
    side.options.control = control;
    side.options.clock = clock;
    auto created = TransferEngine::Create(std::move(side.options));
    ASSERT_TRUE(created.ok()) << created.status();
    side.engine = *std::move(created);
  }

  void RunLoopback() {
    FakeClock clock;
    LoopbackFabric fabric(&clock, 1);
    const TransferMode mode = wire_ == "pull"     ? TransferMode::kPull
                              : wire_ == "stream" ? TransferMode::kStream
                                                  : TransferMode::kPut;
    for (Side* side : {&source_, &target_}) {
      Create(*side, fabric.MakeTransport(side->name, mode),
             fabric.MakeControl(side->name), &clock);
      fabric.Attach(side->name, side->engine.get());
    }
    const auto settle = [&] {
      for (int i = 0; i < 20'000; ++i) {
        bool busy = fabric.Deliver();
        busy = source_.engine->RunOnce() == 0 || busy;
        busy = target_.engine->RunOnce() == 0 || busy;
        if (!busy && fabric.idle()) return;
      }
    };
    ASSERT_TRUE(fabric.Pair("decode", "prefill").ok());
    settle();
    bool ended = false;
    Start([&](const TransferId&, const TransferResult& result) {
      result_ = result;
      ended = true;
    });
    for (int ms = 0; !ended && ms < 5000; ms += 5) {
      settle();
      clock.AdvanceMs(5);
    }
    for (Side* side : {&source_, &target_}) side->engine->Shutdown();
    while (!source_.engine->drained() || !target_.engine->drained()) {
      settle();
      clock.AdvanceMs(5);
    }
    source_.engine.reset();
    target_.engine.reset();
  }

  void RunThreads() {
    std::map<std::string, std::unique_ptr<DirectControl>> controls;
    std::vector<std::unique_ptr<TransferThread>> threads;
    for (Side* side : {&source_, &target_}) {
      controls[side->name] = std::make_unique<DirectControl>(side->name);
      Create(*side, MakeRealTransport(wire_), controls[side->name].get(),
             &SystemClock::Get());
      threads.push_back(*TransferThread::Start(side->engine.get()));
    }
    controls["prefill"]->Connect(target_.engine.get());
    controls["decode"]->Connect(source_.engine.get());
    const PeerOffer dialled = target_.engine->PrepareOffer();
    const PeerOffer answer = source_.engine->PrepareOffer();
    ASSERT_TRUE(source_.engine->CheckOffer(dialled, 0).ok());
    source_.engine->Pair(answer, dialled);
    ASSERT_TRUE(target_.engine->CheckOffer(answer, 0).ok());
    target_.engine->Pair(dialled, answer);
    target_.engine->OnLinkUp("prefill");
    source_.engine->OnLinkUp("decode");
    std::promise<TransferResult> ended;
    Start([&](const TransferId&, const TransferResult& result) {
      ended.set_value(result);
    });
    result_ = ended.get_future().get();
    threads.clear();
    for (auto& [name, control] : controls) control->Connect(nullptr);
    source_.engine.reset();
    target_.engine.reset();
  }

  const Case case_;
  const std::string wire_;
  Side source_;
  Side target_;
  TransferResult result_;
};

// Block sizes, orders, layer splits and lengths of a case, from its number.
Case Vary(const CacheModel& model, int source_ranks, int target_ranks,
          std::mt19937& random) {
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  const auto split = [&](int ranks) {
    return CacheSplit{
        ranks, 1 + pick(2), 8 << pick(4),
        pick(2) == 0 ? InnerOrder::kCanonical : InnerOrder::kCpuTiles};
  };
  Case c;
  do {
    c.model = model;
    c.from = split(source_ranks);
    c.to = split(target_ranks);
    c.skip = static_cast<uint32_t>(pick(2) * c.to.block_tokens);
    c.num_tokens = c.skip + 1 + static_cast<uint32_t>(pick(120));
  } while (!c.possible());
  return c;
}

size_t RunCases(const std::vector<CacheModel>& models,
                const std::vector<std::string>& wires, uint32_t seed) {
  std::mt19937 random(seed);
  size_t cases = 0;
  for (int from = 1; from <= 8; ++from) {
    for (int to = 1; to <= 8; ++to) {
      for (const CacheModel& model : models) {
        const Case c = Vary(model, from, to, random);
        for (const std::string& wire : wires) {
          SCOPED_TRACE(testing::Message()
                       << wire << " " << model.groups[0].heads << " heads, "
                       << Describe(c.from) << " -> " << Describe(c.to)
                       << " tokens [" << c.skip << ", " << c.num_tokens << ")");
          Transfer(c, wire).RunAndCompare();
          ++cases;
          if (testing::Test::HasFailure()) return cases;
        }
      }
    }
  }
  return cases;
}

// Replicated latents: every rank holds the one head.
CacheModel Latent() {
  return {2,
          {{.kind = GroupKind::kLatent,
            .comps = 1,
            .heads = 1,
            .head_dim = 24,
            .may_tile = false}}};
}

TEST(Ranks, EveryPairOverTheLoopback) {
  std::printf("engine cases: %zu\n",
              RunCases({KeyValueModel(8, 8, 2), KeyValueModel(6, 8, 2),
                        KeyValueModel(2, 8, 2), Latent()},
                       {"pull", "stream", "put"}, 3));
}

TEST(Ranks, EveryPairWithEveryGroupOverTheLoopback) {
  std::printf("engine cases: %zu\n", RunCases({AllGroupsModel(5, 8, 3)},
                                              {"pull", "stream", "put"}, 5));
}

TEST(Ranks, EveryPairOverShm) {
  std::printf("engine cases: %zu\n",
              RunCases({AllGroupsModel(6, 16, 2), Latent()}, {"shm"}, 7));
}

TEST(Ranks, EveryPairOverTcp) {
  std::printf("engine cases: %zu\n",
              RunCases({AllGroupsModel(6, 16, 2)}, {"ucx"}, 9));
}

}  // namespace
}  // namespace sluice::kvtransfer
