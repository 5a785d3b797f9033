#include "router/flow/worker_stream.h"

#include <chrono>
#include <utility>

#include "base/grpc_status.h"

namespace sluice::router {
namespace {

// A unary Cancel in flight; deletes itself.
struct CancelCall {
  std::shared_ptr<const WorkerLink> link;
  grpc::ClientContext context;
  v1::CancelRequest request;
  v1::CancelResponse response;
};

}  // namespace

std::shared_ptr<WorkerStream> WorkerStream::Start(
    std::shared_ptr<const WorkerLink> link, v1::SubmitRequest request,
    Callbacks callbacks) {
  std::shared_ptr<WorkerStream> stream(new WorkerStream(
      std::move(link), std::move(request), std::move(callbacks)));
  stream->self_ = stream;
  stream->link_->stub->async()->Submit(&stream->context_, &stream->request_,
                                       stream.get());
  // Next() starts reads from outside of gRPC's callbacks, so the call must not
  // complete between two reads.
  stream->AddHold();
  stream->StartRead(&stream->event_);
  stream->StartCall();
  return stream;
}

void WorkerStream::Next() {
  if (cancelled_) {
    RemoveHold();
    return;
  }
  event_.Clear();
  StartRead(&event_);
}

void WorkerStream::Cancel(const std::string& cause) {
  if (cancelled_) return;
  cancelled_ = true;
  SendCancel(cause);
  // A read in progress now fails; an event given out is owed a Next().
  context_.TryCancel();
}

// Besides the reset of the call: a worker may keep a request whose router
// seems gone, and this one is not wanted back.
void WorkerStream::SendCancel(const std::string& cause) {
  auto* call = new CancelCall;
  call->link = link_;
  call->context.set_deadline(std::chrono::system_clock::now() +
                             std::chrono::seconds(1));
  call->request.set_request_id(request_.request_id());
  call->request.set_attempt(request_.attempt());
  call->request.set_cause(cause);
  link_->stub->async()->Cancel(&call->context, &call->request, &call->response,
                               [call](const grpc::Status&) { delete call; });
}

void WorkerStream::OnReadDone(bool ok) {
  if (ok) {
    callbacks_.on_event(self_);
  } else {
    RemoveHold();
  }
}

void WorkerStream::OnDone(const grpc::Status& status) {
  std::shared_ptr<WorkerStream> last = std::move(self_);
  callbacks_.on_end(last, FromGrpcStatus(status));
}

}  // namespace sluice::router
