// A prefill worker that is killed and started again on one address, over and
// over, in the middle of transfers: the decode side ends each of them in one
// definite state, soon, has what it says it has, gets nothing written into
// blocks that it has taken back, pairs again, and keeps nothing.
//
// $SLUICE_CHURN_CYCLES: kills over each transport (default 40), for longer runs
// by hand.

#include <dirent.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvtransfer/wire/kv_wire.h"
#include "proto/kv.pb.h"
#include "tests/worker/handoff/wired_worker.h"
#include "worker/handoff/peer_dialer.h"

namespace sluice::worker {
namespace {

using kvtransfer::TransferResult;
using kvtransfer::TransferState;
using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

// A connection that breaks is seen at once; far above it, for busy machines.
constexpr milliseconds kEndBound(3000);
constexpr milliseconds kPairBound(10'000);
constexpr uint32_t kTokens = 1000;

int Cycles() {
  const char* text = std::getenv("SLUICE_CHURN_CYCLES");
  int cycles = 0;
  return text != nullptr && absl::SimpleAtoi(text, &cycles) ? cycles : 40;
}

// One life of the source.
class SourceProcess {
 public:
  SourceProcess(const std::string& transport, int port, uint64_t generation) {
    int to_child[2];
    int from_child[2];
    SLUICE_CHECK(pipe(to_child) == 0 && pipe(from_child) == 0);
    const std::string port_text = absl::StrCat(port);
    const std::string generation_text = absl::StrCat(generation);
    pid_ = fork();
    SLUICE_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      dup2(to_child[0], STDIN_FILENO);
      dup2(from_child[1], STDOUT_FILENO);
      // The test's sockets and pools are not the child's.
      for (int fd = 3; fd < 1024; ++fd) close(fd);
      execl("tests/worker/handoff/churn_source", "churn_source",
            transport.c_str(), port_text.c_str(), generation_text.c_str(),
            nullptr);
      _exit(127);
    }
    close(to_child[0]);
    close(from_child[1]);
    input_ = to_child[1];
    output_ = from_child[0];
  }
  ~SourceProcess() {
    Kill();
    close(input_);
    close(output_);
  }
  SourceProcess(const SourceProcess&) = delete;
  SourceProcess& operator=(const SourceProcess&) = delete;

  // The port it listens on; 0 if it ended before. UCX warns on the same stream.
  int AwaitPort() {
    std::string line;
    for (char c = 0; read(output_, &c, 1) == 1;) {
      if (c != '\n') {
        line += c;
        continue;
      }
      int port = 0;
      if (absl::SimpleAtoi(line, &port)) return port;
      line.clear();
    }
    return 0;
  }

  void Send(const kvtransfer::Ticket& ticket, uint64_t sequence, int pause_us) {
    const std::string line = absl::StrCat(
        absl::BytesToHexString(kvtransfer::ToProto(ticket).SerializeAsString()),
        " ", sequence, " ", pause_us, "\n");
    SLUICE_CHECK(write(input_, line.data(), line.size()) ==
                 static_cast<ssize_t>(line.size()));
  }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  int input_ = -1;
  int output_ = -1;
};

int CountEntries(const char* folder) {
  int count = 0;
  DIR* const dir = opendir(folder);
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

struct Footprint {
  int descriptors = CountEntries("/proc/self/fd");
  int threads = CountEntries("/proc/self/task");
  int mappings = [] {
    std::ifstream file("/proc/self/maps");
    int lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
    return lines;
  }();
};

class PeerChurn : public testing::TestWithParam<const char*> {
 protected:
  PeerChurn() : target_(ChurnTarget(), GetParam(), /*sends=*/false) {
    signal(SIGPIPE, SIG_IGN);
    Start();
  }

  // The next life of the source, on the port of the first.
  void Start() {
    source_ = std::make_unique<SourceProcess>(GetParam(), port_, ++generation_);
    const int port = source_->AwaitPort();
    ASSERT_NE(port, 0) << "generation " << generation_;
    if (port_ == 0) {
      port_ = port;
      dialer_ = std::make_unique<PeerDialer>(
          PeerDialerOptions{.addresses = {absl::StrCat("127.0.0.1:", port)},
                            .dns = "",
                            .own_worker = "decode"},
          *target_.engine, target_.links);
    }
    ASSERT_EQ(port, port_);
  }

  bool IsPaired() {
    const auto peers = target_.engine->Peers();
    return std::any_of(peers->begin(), peers->end(),
                       [this](const kvtransfer::PeerInfo& peer) {
                         return peer.generation == generation_ &&
                                peer.state == kvtransfer::PeerState::kUp;
                       });
  }
  bool AwaitPair() {
    const auto begin = SteadyClock::now();
    while (!IsPaired()) {
      if (SteadyClock::now() - begin > kPairBound) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    slowest_pair_ = std::max(
        slowest_pair_,
        std::chrono::duration_cast<milliseconds>(SteadyClock::now() - begin));
    return true;
  }

  struct Transfer {
    std::vector<uint32_t> blocks;
    uint64_t sequence = 0;
    std::shared_ptr<std::promise<TransferResult>> end;
    std::future<TransferResult> ended;
  };
  Transfer Begin(uint32_t first_block, uint64_t sequence, int pause_us) {
    Transfer transfer{.blocks = kvtransfer::Blocks(
                          kTokens, target_.kv.spec.block_tokens, first_block),
                      .sequence = sequence,
                      .end = std::make_shared<std::promise<TransferResult>>(),
                      .ended = {}};
    transfer.ended = transfer.end->get_future();
    kvtransfer::ReceiveArgs receive;
    receive.blocks = transfer.blocks;
    receive.num_tokens = kTokens;
    receive.deadline_ms = 20'000;
    receive.expected_source = "prefill";
    receive.on_ended = [end = transfer.end](const kvtransfer::TransferId&,
                                            const TransferResult& result) {
      end->set_value(result);
    };
    const auto ticket = target_.engine->StartReceive(receive);
    SLUICE_CHECK(ticket.ok());
    source_->Send(*ticket, sequence, pause_us);
    return transfer;
  }
  bool Holds(const Transfer& transfer) const {
    return target_.kv.Holds(transfer.blocks, 0, kTokens, transfer.sequence);
  }

  WiredWorker target_;
  int port_ = 0;
  uint64_t generation_ = 100;
  std::unique_ptr<SourceProcess> source_;
  std::unique_ptr<PeerDialer> dialer_;
  milliseconds slowest_pair_{0};
};

INSTANTIATE_TEST_SUITE_P(Over, PeerChurn, testing::Values("shm", "ucx"),
                         [](const auto& info) { return info.param; });

TEST_P(PeerChurn, EndsEveryTransferAndKeepsNothing) {
  // Of the blocks of the transfer that is cut, taken back.
  constexpr uint64_t kNextOwner = 999'999;
  const int cycles = Cycles();
  const int warm = std::min(10, cycles / 2);
  std::mt19937 random(5);
  std::map<TransferState, int> cut;
  milliseconds slowest_end(0);
  std::unique_ptr<Footprint> before;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    SCOPED_TRACE(absl::StrCat("cycle ", cycle));
    ASSERT_TRUE(AwaitPair());
    const uint64_t sequence = 10 + 2 * static_cast<uint64_t>(cycle);
    Transfer whole = Begin(/*first_block=*/3, sequence, /*pause_us=*/0);
    ASSERT_EQ(whole.ended.wait_for(kPairBound), std::future_status::ready);
    const TransferResult result = whole.ended.get();
    ASSERT_EQ(result.state, TransferState::kCompleted) << result.status;
    ASSERT_TRUE(Holds(whole));

    Transfer torn = Begin(/*first_block=*/80, sequence + 1,
                          static_cast<int>(random() % 1500));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    const auto killed = SteadyClock::now();
    source_->Kill();
    ASSERT_EQ(torn.ended.wait_for(kPairBound), std::future_status::ready);
    slowest_end = std::max(
        slowest_end,
        std::chrono::duration_cast<milliseconds>(SteadyClock::now() - killed));
    const TransferResult end = torn.ended.get();
    ++cut[end.state];
    if (end.state == TransferState::kCompleted) {
      EXPECT_TRUE(Holds(torn));
    } else {
      EXPECT_EQ(end.state, TransferState::kFailed);
      EXPECT_EQ(end.status.code(), absl::StatusCode::kUnavailable)
          << end.status;
    }
    target_.kv.Fill(torn.blocks, kTokens, kNextOwner);
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_TRUE(AwaitPair());
    EXPECT_TRUE(target_.kv.Holds(torn.blocks, 0, kTokens, kNextOwner))
        << "written into after it was given back";
    EXPECT_TRUE(Holds(whole));
    if (cycle == warm) before = std::make_unique<Footprint>();
    if (HasFailure()) break;
  }
  EXPECT_LE(slowest_end.count(), kEndBound.count());
  if (before == nullptr) return;
  const Footprint after;
  std::cout << cycles << " kills over " << GetParam() << ": "
            << cut[TransferState::kFailed] << " transfers failed, "
            << cut[TransferState::kCompleted] << " were through, slowest end "
            << slowest_end.count() << " ms, slowest pairing "
            << slowest_pair_.count() << " ms; "
            << after.descriptors - before->descriptors << " descriptors, "
            << after.threads - before->threads << " threads, "
            << after.mappings - before->mappings << " mappings more\n";
  EXPECT_GT(cut[TransferState::kFailed], 0);
  EXPECT_LE(after.descriptors, before->descriptors + 8);
  EXPECT_LE(after.threads, before->threads + 2);
  EXPECT_LE(after.mappings, before->mappings + 64);
  const auto stats = target_.engine->Stats();
  for (uint64_t open : stats->inflight_transfers) EXPECT_EQ(open, 0u);
}

}  // namespace
}  // namespace sluice::worker
