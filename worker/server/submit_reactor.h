#ifndef WORKER_SERVER_SUBMIT_REACTOR_H_
#define WORKER_SERVER_SUBMIT_REACTOR_H_

#include <map>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "base/stream_writer.h"
#include "proto/worker.grpc.pb.h"
#include "worker/server/attempt.h"

namespace sluice::worker {

// Streams one attempt's journal to a router. The stream ends with the attempt's
// final status, with ABORTED when another reader took over, or when it is cut.
// A router that goes away only leaves the attempt without a reader. Kept alive
// by itself until OnDone().
class SubmitReactor final
    : public StreamWriter<grpc::ServerWriteReactor<v1::WorkerEvent>,
                          v1::WorkerEvent>,
      public AttemptReader {
 public:
  // `context` lives until OnDone(), as gRPC promises.
  static grpc::ServerWriteReactor<v1::WorkerEvent>* Follow(
      grpc::CallbackServerContext* context,
      const std::shared_ptr<Attempt>& attempt,
      std::map<uint32_t, uint32_t> next_position);
  static grpc::ServerWriteReactor<v1::WorkerEvent>* Refuse(
      grpc::CallbackServerContext* context, const absl::Status& status);

  SubmitReactor(grpc::CallbackServerContext* context,
                std::shared_ptr<Attempt> attempt)
      : context_(context), attempt_(std::move(attempt)) {}

  void OnReadable() override { Advance(); }
  void OnReplaced() override;
  void OnCut(const absl::Status& cause) override { EndNow(cause); }
  void OnCancel() override;
  void OnDone() override;

 private:
  const v1::WorkerEvent* NextMessage(std::optional<absl::Status>& end) override;
  void CancelCall() override { context_->TryCancel(); }
  void EndCall(const absl::Status& status) override;

  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Attempt> attempt_;  // null: refused
  std::shared_ptr<SubmitReactor> self_;

  Mutex mu_;
  Attempt::Cursor cursor_ ABSL_GUARDED_BY(mu_);
  // gRPC's while a write is in flight.
  std::shared_ptr<const v1::WorkerEvent> current_ ABSL_GUARDED_BY(mu_);
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_SUBMIT_REACTOR_H_
