#ifndef KVTRANSFER_UCX_UCX_PUT_TRANSPORT_H_
#define KVTRANSFER_UCX_UCX_PUT_TRANSPORT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kvtransfer/transport.h"
#include "kvtransfer/ucx/ucx_put_context.h"

namespace sluice::kvtransfer {

struct UcxPutTransportOptions {
  std::shared_ptr<UcxPutContext> context;
  // The region to be registered, if UCX allocated it; outlives the transport.
  // kSharedMemory writes into no other.
  const UcxPutMemory* memory = nullptr;
  const Clock* clock = &SystemClock::Get();  // outlives the transport
};

// UCX one-sided writes, mode put. The receiver dials and, once both tokens
// were compared, hands the source a key to its region, which dies with the
// process or the region. A link is up only if the wire writes by itself: UCX
// must have a put protocol for the endpoint, and a first word must land while
// the receiver does not progress. Transfer thread only; no code of ours runs
// inside UCX except handlers that copy and return.
class UcxPutTransport final : public Transport {
 public:
  // kUnavailable when UCX refuses.
  static absl::StatusOr<std::unique_ptr<UcxPutTransport>> Create(
      const UcxPutTransportOptions& options);
  ~UcxPutTransport() override;

  // kInvalidArgument for a memory kind that is none or, over kSharedMemory,
  // memory that is not UCX's; kUnimplemented for one UCX does not reach here.
  absl::Status Register(const Region& region) override;
  absl::StatusOr<LinkId> Connect(const LinkArgs& args) override;
  absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) override;
  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override;
  absl::StatusOr<OperationId> StartPut(LinkId link,
                                       std::vector<PutPiece> pieces) override;
  void Deregister() override;
  std::optional<absl::Status> Poll(OperationId operation) override;
  bool Progress(TransportEvents& events, bool may_sleep) override;
  void Close(LinkId link) override;

 private:
  struct State;  // all that needs UCX's headers
  explicit UcxPutTransport(std::unique_ptr<State> state);

  const std::unique_ptr<State> state_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_UCX_UCX_PUT_TRANSPORT_H_
