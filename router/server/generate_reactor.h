#ifndef ROUTER_SERVER_GENERATE_REACTOR_H_
#define ROUTER_SERVER_GENERATE_REACTOR_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "proto/inference.grpc.pb.h"
#include "router/flow/request_flow.h"

namespace sluice::router {

// Streams one native Generate call. At most one write is in flight; a delta is
// acknowledged to the flow when gRPC has taken it, so a client that stops
// reading stops the flow. The call ends once, when the flow says so; a client
// that goes away only cancels the flow. Kept alive by itself until OnDone().
class GenerateReactor final
    : public grpc::ServerWriteReactor<v1::GenerateEvent>,
      public FlowListener {
 public:
  // The caller starts flow(), on a thread that may take its time.
  static GenerateReactor* Make(Router& router,
                               grpc::CallbackServerContext* context,
                               const v1::GenerateRequest& request);
  const std::shared_ptr<Flow>& flow() const { return flow_; }

  GenerateReactor(grpc::CallbackServerContext* context,
                  const v1::GenerateRequest& request)
      : context_(context),
        output_(request.output()),
        final_only_(request.final_only()),
        include_timing_(request.include_timing()) {}

  void OnStarted(const StartedEvent& event) override;
  void OnDelta(v1::TokenDelta delta) override;
  void OnChoiceEnd(const v1::ChoiceEnd& end) override;
  void OnEnd(const EndEvent& end) override;

 private:
  struct Outgoing {
    v1::GenerateEvent event;
    uint32_t num_deltas = 0;  // of the flow, acknowledged when written
  };

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  Outgoing Wrap() const;
  // Leaves out what the client did not ask for; false: nothing is left.
  bool Trim(v1::TokenDelta& delta) const;
  void Collect(v1::TokenDelta delta);
  void Push(Outgoing outgoing);
  // Starts the next gRPC operation, if none is in flight.
  void Advance();

  grpc::CallbackServerContext* const context_;
  const v1::OutputForm output_;
  const bool final_only_;
  bool include_timing_;
  std::shared_ptr<Flow> flow_;                    // set before the flow starts
  std::shared_ptr<GenerateReactor> self_;         // likewise; until OnDone()
  std::map<uint32_t, v1::TokenDelta> collected_;  // by choice; the flow's

  Mutex mu_;
  std::deque<Outgoing> queue_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;  // the client is gone
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  Outgoing current_;  // gRPC reads it while `writing_`
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_GENERATE_REACTOR_H_
