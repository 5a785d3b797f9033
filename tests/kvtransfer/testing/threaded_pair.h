#ifndef TESTS_KVTRANSFER_TESTING_THREADED_PAIR_H_
#define TESTS_KVTRANSFER_TESTING_THREADED_PAIR_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "kvtransfer/transfer_engine.h"
#include "kvtransfer/transfer_thread.h"
#include "kvtransfer/ucx/ucx_put_context.h"
#include "tests/kvtransfer/testing/kv_worker.h"

namespace sluice::kvtransfer {

// "shm" or "ucx" (loopback tcp); fails the process if it cannot be made.
std::unique_ptr<Transport> MakeRealTransport(const std::string& name);

// UCX's memory for a worker, and what writes into that of others.
struct PutWorld {
  explicit PutWorld(const KvWorkerSpec& spec);
  std::unique_ptr<Transport> MakeTransport() const;

  std::shared_ptr<UcxPutContext> context;
  std::unique_ptr<UcxPutMemory> memory;
};

// Puts something between an engine and its wire; null: nothing.
using TransportWrap =
    std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)>;

// Hands messages straight to the other engine.
class DirectControl : public ControlLink {
 public:
  explicit DirectControl(std::string self) : self_(std::move(self)) {}
  void Send(const std::string& peer, const ControlMessage& message) override;
  void Connect(TransferEngine* other);

 private:
  const std::string self_;
  Mutex mu_;
  TransferEngine* other_ ABSL_GUARDED_BY(mu_) = nullptr;
};

// One worker with a real transport, as above or "ucx_put" (over shared memory),
// and its own transfer thread. Staging of a spec is cut into four slots.
struct ThreadedWorker {
  ThreadedWorker(const KvWorkerSpec& spec, const std::string& transport,
                 bool sends, const TransportWrap& wrap = nullptr);

  std::unique_ptr<PutWorld> put;  // of "ucx_put"
  KvWorker kv;
  DirectControl control;
  std::unique_ptr<TransferEngine> engine;
  std::unique_ptr<TransferThread> thread;
};

// A prefill and a decode worker in this process, paired over real wires.
class ThreadedPair {
 public:
  ThreadedPair(const KvWorkerSpec& source_spec, const KvWorkerSpec& target_spec,
               const std::string& transport,
               const TransportWrap& wrap_source = nullptr,
               const TransportWrap& wrap_target = nullptr);
  ~ThreadedPair();

  absl::Status Pair();
  // Waits until the decode side says so, at most 10 s.
  bool WaitForState(PeerState state);

  struct Outcome {
    TransferResult received;
    TransferResult sent;
    std::string attachment;
  };
  // One whole transfer, layer by layer, with an attachment; waits for it.
  Outcome Transfer(uint32_t num_tokens, uint32_t skip, uint64_t sequence);
  // Starts both sides of one and offers all of it; the callbacks are the
  // caller's.
  TransferId Start(ReceiveArgs receive, SendArgs send, uint64_t sequence);

  ThreadedWorker source;
  ThreadedWorker target;
  std::vector<uint32_t> source_blocks;
  std::vector<uint32_t> target_blocks;
};

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_THREADED_PAIR_H_
