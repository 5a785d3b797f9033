#ifndef TESTS_KVTRANSFER_TESTING_LOOPBACK_PAIR_H_
#define TESTS_KVTRANSFER_TESTING_LOOPBACK_PAIR_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kvtransfer/loopback/loopback_fabric.h"
#include "tests/kvtransfer/testing/kv_worker.h"

namespace sluice::kvtransfer {

// What the callbacks of one side said.
struct SideLog {
  std::vector<TransferResult> ends;
  std::vector<absl::StatusOr<std::string>> attachments;
  int released = 0;  // transfers that came out of quarantine

  bool ended() const { return !ends.empty(); }
  TransferState state() const { return ends.at(0).state; }
  absl::StatusCode code() const { return ends.at(0).status.code(); }
};

struct LoopbackPairOptions {
  KvWorkerSpec source = {.name = "prefill"};
  KvWorkerSpec target = {.name = "decode"};
  TransferMode mode = TransferMode::kPull;
  uint64_t seed = 1;
  bool pair = true;
  uint32_t stream_message_bytes = 1024;
  uint32_t staging_slots = 0;  // put: of the target
  uint64_t slot_bytes = 1024;
  PutFence put_fence = PutFence::kClose;
  int64_t close_ms = 0;
  bool append_digests = false;  // both sides keep them; the test appends
  TransferObserver* source_observer = nullptr;
  TransferObserver* target_observer = nullptr;
};

// A prefill and a decode worker on a loopback fabric with one fake clock,
// everything on the calling thread.
class LoopbackPair {
 public:
  explicit LoopbackPair(const LoopbackPairOptions& options);
  ~LoopbackPair();

  // Runs both engines and the fabric until nothing moves at this instant.
  void Settle();
  // Kills the source and starts its next generation, not paired yet.
  void RestartSource();
  // Advances the clock in steps of 5 ms, settling after each.
  void Run(int64_t ms);

  // One transfer with default arguments.
  struct Args {
    uint32_t num_tokens = 40;
    uint32_t skip = 0;
    uint32_t deadline_ms = 5000;
    uint64_t sequence = 7;
    uint32_t first_block = 3;  // of the target's; then every second
  };
  Ticket StartReceive(const Args& args);
  void StartSend(const Ticket& ticket);
  // Tokens [0, t1) x layers [l0, l1) are final.
  void Offer(const Ticket& ticket, uint32_t t1, uint32_t l0, uint32_t l1);
  void OfferAll(const Ticket& ticket);
  bool TargetHolds(const Args& args) const;
  // Whether the ledger could hand out the target's blocks of `args` now.
  bool CanHandOut(const Args& args) const;

  FakeClock clock;
  LoopbackFabric fabric;
  KvWorker source;
  KvWorker target;
  std::unique_ptr<AppendDigests> append_digests;  // by option, the source's
  std::unique_ptr<AppendDigests> target_digests;  // by option
  std::unique_ptr<TransferEngine> source_engine;
  std::unique_ptr<TransferEngine> target_engine;
  SideLog sent;
  SideLog received;
  std::vector<uint32_t> source_blocks;
  std::vector<uint32_t> target_blocks;
  std::set<uint32_t> quarantined;  // blocks of the target

 private:
  // Blocks that may be written for a transfer with these arguments.
  std::vector<uint32_t> NeededBlocks(const Args& args) const;
  void BuryKilled();
  // They belong to somebody else from now on.
  void ChangeOwner(const std::vector<uint32_t>& blocks);

  const LoopbackPairOptions options_;
  std::vector<uint64_t> owners_;  // of the target's blocks
  std::vector<std::unique_ptr<TransferEngine>> killed_;
  std::unique_ptr<TransferEngine> MakeEngine(const KvWorker& worker,
                                             const LoopbackPairOptions& options,
                                             bool sends);
};

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_LOOPBACK_PAIR_H_
