#ifndef WORKER_SERVER_WORKER_SERVICE_H_
#define WORKER_SERVER_WORKER_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "proto/worker.grpc.pb.h"
#include "worker/engine/engine.h"
#include "worker/handoff/handoff.h"
#include "worker/server/drainer.h"
#include "worker/server/reporter.h"
#include "worker/server/request_table.h"
#include "worker/server/worker_facts.h"

namespace sluice::worker {

// sluice.v1.Worker. Turns protos into the engine's values and back; holds no
// state of its own but the next request key. gRPC's threads.
class WorkerService final : public v1::Worker::CallbackService {
 public:
  struct Parts {
    const WorkerFacts* facts = nullptr;
    Engine* engine = nullptr;
    Handoff* handoff = nullptr;  // null on a mixed worker
    RequestTable* requests = nullptr;
    Reporter* reporter = nullptr;
    Drainer* drain = nullptr;
    const Clock* clock = nullptr;
    uint32_t default_drain_budget_ms = 600000;
    std::function<v1::LedgerResponse()> ledger;
    std::string model_card;  // serialised
  };
  explicit WorkerService(Parts parts);

  grpc::ServerWriteReactor<v1::WorkerEvent>* Submit(
      grpc::CallbackServerContext* context,
      const v1::SubmitRequest* request) override;
  grpc::ServerWriteReactor<v1::WorkerEvent>* Attach(
      grpc::CallbackServerContext* context,
      const v1::WorkerAttachRequest* request) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override;
  grpc::ServerWriteReactor<v1::DrainStatus>* Drain(
      grpc::CallbackServerContext* context,
      const v1::DrainRequest* request) override;
  grpc::ServerWriteReactor<v1::WorkerReport>* Report(
      grpc::CallbackServerContext* context,
      const v1::ReportRequest* request) override;
  grpc::ServerUnaryReactor* Ledger(grpc::CallbackServerContext* context,
                                   const v1::LedgerRequest* request,
                                   v1::LedgerResponse* response) override;
  grpc::ServerWriteReactor<v1::ModelCardChunk>* GetModelCard(
      grpc::CallbackServerContext* context,
      const v1::GetModelCardRequest* request) override;

 private:
  // Hands a new attempt to the engine and, in a split, to the hand-over.
  absl::Status StartAttempt(const v1::SubmitRequest& submit, Request request,
                            const std::shared_ptr<Attempt>& attempt);

  const Parts parts_;
  std::vector<v1::ModelCardChunk> card_chunks_;
  std::atomic<RequestKey> next_key_{1};
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_WORKER_SERVICE_H_
