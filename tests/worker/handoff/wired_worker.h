#ifndef TESTS_WORKER_HANDOFF_WIRED_WORKER_H_
#define TESTS_WORKER_HANDOFF_WIRED_WORKER_H_

#include <memory>
#include <string>

#include "kvtransfer/transfer_thread.h"
#include "tests/kvtransfer/testing/kv_worker.h"
#include "worker/handoff/kv_links.h"

namespace sluice::worker {

// The transfer part of a worker as its process has it: an engine with a real
// transport ("shm" or "ucx"), its thread and the links its messages take. No
// model.
struct WiredWorker {
  WiredWorker(const kvtransfer::KvWorkerSpec& spec,
              const std::string& transport, bool sends);

  kvtransfer::KvWorker kv;
  KvLinks links;
  std::unique_ptr<kvtransfer::TransferEngine> engine;
  std::unique_ptr<kvtransfer::TransferThread> thread;
};

// The two sides of the churn test; `generation` of the source.
kvtransfer::KvWorkerSpec ChurnSource(uint64_t generation);
kvtransfer::KvWorkerSpec ChurnTarget();

}  // namespace sluice::worker

#endif  // TESTS_WORKER_HANDOFF_WIRED_WORKER_H_
