#include "worker/handoff/peer_dialer.h"

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "gtest/gtest.h"
#include "tests/kvtransfer/testing/loopback_pair.h"
#include "worker/handoff/kv_service.h"

namespace sluice::worker {
namespace {

using Addresses = std::vector<std::string>;

// A name service whose answers the test sets.
class FakeNames {
 public:
  Addresses Resolve() {
    MutexLock lock(mu_);
    ++asked_;
    asked_wake_.NotifyAll();
    return answer_;
  }
  // From now on; returns when the dialer has acted on it.
  void Answer(const Addresses& addresses) {
    MutexLock lock(mu_);
    answer_ = addresses;
    const int seen = asked_ + 2;  // one may have begun before
    while (asked_ < seen) asked_wake_.Wait(mu_);
  }
  // Asks `holds` after each answer; false when it never does.
  bool Await(const std::function<bool()>& holds) {
    for (int i = 0; i < 4000; ++i) {
      if (holds()) return true;
      MutexLock lock(mu_);
      const int seen = asked_ + 1;
      while (asked_ < seen) asked_wake_.Wait(mu_);
    }
    return false;
  }

 private:
  Mutex mu_;
  CondVar asked_wake_;
  Addresses answer_ ABSL_GUARDED_BY(mu_);
  int asked_ ABSL_GUARDED_BY(mu_) = 0;
};

// Nothing listens there.
constexpr char kDead[] = "127.0.0.1:1";
constexpr char kDeadToo[] = "127.0.0.1:2";

class PeerDialerTest : public testing::Test {
 protected:
  PeerDialerTest()
      : pair_(kvtransfer::LoopbackPairOptions{.pair = false}),
        service_(*pair_.source_engine, source_links_, pair_.source.manifest) {
    source_links_.set_transfers(pair_.source_engine.get());
    target_links_.set_transfers(pair_.target_engine.get());
    server_ = Serve(service_, "127.0.0.1:0");
  }
  ~PeerDialerTest() override {
    dialer_.reset();
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now());
    }
  }

  // Sets live_.
  std::unique_ptr<grpc::Server> Serve(KvService& service,
                                      const std::string& address) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service);
    auto server = builder.BuildAndStart();
    live_ = "127.0.0.1:" + std::to_string(port);
    return server;
  }
  void Start(Addresses fixed = {}) {
    dialer_ = std::make_unique<PeerDialer>(
        PeerDialerOptions{
            .addresses = std::move(fixed),
            .dns = "workers:8001",
            .own_worker = "decode",
            .resolve = [this](const std::string&) { return names_.Resolve(); },
            .resolve_every_ms = 5},
        *pair_.target_engine, target_links_);
  }
  bool AwaitLink(bool open) {
    return names_.Await(
        [&] { return target_links_.IsOpen("prefill") == open; });
  }

  kvtransfer::LoopbackPair pair_;
  KvLinks source_links_;
  KvLinks target_links_;
  KvService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string live_;
  FakeNames names_;
  std::unique_ptr<PeerDialer> dialer_;
};

TEST_F(PeerDialerTest, FollowsTheNamesAndKeepsThemWhenThereAreNone) {
  Start({kDeadToo});
  names_.Answer({kDead});
  EXPECT_EQ(dialer_->addresses(), (Addresses{kDead, kDeadToo}));
  names_.Answer({});
  EXPECT_EQ(dialer_->addresses(), (Addresses{kDead, kDeadToo}))
      << "a name service without an answer has failed";
  names_.Answer({live_});
  EXPECT_EQ(dialer_->addresses(), (Addresses{kDeadToo, live_}))
      << "a given address stays, one that is not named any more goes";
}

TEST_F(PeerDialerTest, ALinkedAddressStaysUntilItsLinkEnds) {
  Start();
  names_.Answer({live_});
  ASSERT_TRUE(AwaitLink(true));
  EXPECT_TRUE(names_.Await([&] { return source_links_.IsOpen("decode"); }));
  names_.Answer({kDead});
  EXPECT_EQ(dialer_->addresses(), (Addresses{kDead, live_}));
  EXPECT_TRUE(target_links_.IsOpen("prefill"));
  server_->Shutdown(std::chrono::system_clock::now());
  ASSERT_TRUE(AwaitLink(false));
  EXPECT_TRUE(
      names_.Await([&] { return dialer_->addresses() == Addresses{kDead}; }));
}

TEST_F(PeerDialerTest, PairsAgainWhenThePeerIsBack) {
  Start();
  names_.Answer({live_});
  ASSERT_TRUE(AwaitLink(true));
  server_->Shutdown(std::chrono::system_clock::now());
  ASSERT_TRUE(AwaitLink(false));
  KvService again(*pair_.source_engine, source_links_, pair_.source.manifest);
  const std::string address = live_;
  server_ = Serve(again, address);
  ASSERT_EQ(live_, address);
  EXPECT_TRUE(AwaitLink(true));
  dialer_.reset();
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();  // before `again`
}

}  // namespace
}  // namespace sluice::worker
