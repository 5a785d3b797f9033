#ifndef KVTRANSFER_TRANSFER_THREAD_H_
#define KVTRANSFER_TRANSFER_THREAD_H_

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "base/health.h"
#include "kvtransfer/transfer_engine.h"

namespace sluice::kvtransfer {

// The thread that runs a TransferEngine: sleeps on one epoll set of the
// engine's descriptors and a wake event, at most until the engine's next
// deadline. The engine outlives it.
class TransferThread {
 public:
  // kResourceExhausted when descriptors cannot be made. `heartbeat`, if given,
  // is of the thread and outlives it.
  static absl::StatusOr<std::unique_ptr<TransferThread>> Start(
      TransferEngine* engine, sluice::Heartbeat* heartbeat = nullptr);
  // Shuts the engine down, runs it until it is drained, and joins.
  ~TransferThread();
  TransferThread(const TransferThread&) = delete;
  TransferThread& operator=(const TransferThread&) = delete;

 private:
  TransferThread() = default;
  void Run();

  TransferEngine* engine_ = nullptr;
  sluice::Heartbeat* heartbeat_ = nullptr;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  std::thread thread_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_THREAD_H_
