#ifndef ROUTER_FLOW_WORKER_STREAM_H_
#define ROUTER_FLOW_WORKER_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "proto/worker.grpc.pb.h"
#include "router/cluster/worker_link.h"

namespace sluice::router {

// One Worker.Submit call, read one event at a time: after `on_event` nothing
// more is read until Next(), so a slow reader holds the worker back through
// HTTP/2. `on_event` and `on_end` run on gRPC's threads, one at a time;
// `on_end` is the last. event(), Next() and Cancel() are the owner's, one
// thread at a time, never inside those callbacks' own call stack on another
// thread. Keeps itself alive until `on_end` has run.
class WorkerStream final : public grpc::ClientReadReactor<v1::WorkerEvent> {
 public:
  struct Callbacks {
    std::function<void(const std::shared_ptr<WorkerStream>&)> on_event;
    std::function<void(const std::shared_ptr<WorkerStream>&, absl::Status)>
        on_end;
  };

  static std::shared_ptr<WorkerStream> Start(
      std::shared_ptr<const WorkerLink> link, v1::SubmitRequest request,
      Callbacks callbacks);

  // The event `on_event` told of; valid until Next().
  v1::WorkerEvent& event() { return event_; }
  // Done with event(): reads on. Once per event.
  void Next();
  // The worker is told to free the request, and the call ends soon. The owner
  // still owes a Next() for an event it has been given. Idempotent.
  void Cancel(const std::string& cause);

 private:
  WorkerStream(std::shared_ptr<const WorkerLink> link,
               v1::SubmitRequest request, Callbacks callbacks)
      : link_(std::move(link)),
        callbacks_(std::move(callbacks)),
        request_(std::move(request)) {}

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void SendCancel(const std::string& cause);

  const std::shared_ptr<const WorkerLink> link_;
  const Callbacks callbacks_;
  std::shared_ptr<WorkerStream> self_;  // until OnDone()
  grpc::ClientContext context_;
  v1::SubmitRequest request_;
  v1::WorkerEvent event_;
  bool cancelled_ = false;  // owner's
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_WORKER_STREAM_H_
