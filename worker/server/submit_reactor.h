#ifndef WORKER_SERVER_SUBMIT_REACTOR_H_
#define WORKER_SERVER_SUBMIT_REACTOR_H_

#include <map>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "proto/worker.grpc.pb.h"
#include "worker/server/attempt.h"

namespace sluice::worker {

// Streams one attempt's journal to a router. At most one write is in flight.
// The stream ends once: with the attempt's final status, or ABORTED when
// another reader took over. A router that goes away only leaves the attempt
// without a reader. Kept alive by itself until OnDone().
class SubmitReactor final : public grpc::ServerWriteReactor<v1::WorkerEvent>,
                            public AttemptReader,
                            public std::enable_shared_from_this<SubmitReactor> {
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
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Advance();
  // Ends the stream with the first status given, once no write is in flight:
  // until then gRPC still needs the call.
  void FinishOnce(const absl::Status& status);

  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Attempt> attempt_;  // null: refused
  std::shared_ptr<SubmitReactor> self_;

  Mutex mu_;
  Attempt::Cursor cursor_ ABSL_GUARDED_BY(mu_);
  // gRPC reads it while `writing_`.
  std::shared_ptr<const v1::WorkerEvent> current_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_SUBMIT_REACTOR_H_
