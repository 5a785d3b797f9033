#ifndef KVTRANSFER_UCX_UCX_TRANSPORT_H_
#define KVTRANSFER_UCX_UCX_TRANSPORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

struct UcxTransportOptions {
  // Numeric address to listen on, "127.0.0.1", "10.0.0.7:18500" or
  // "[::1]:18500"; port 0 or none: a free one.
  std::string listen_address = "127.0.0.1";
  const Clock* clock = &SystemClock::Get();  // outlives the transport
};

// UCX over tcp, mode stream: eager active messages on endpoints with peer
// error handling, made through a listener. The receiver dials; both sides
// present their token as the first message, until then an endpoint delivers
// nothing. UCX_TLS and UCX_NET_DEVICES are set here, not taken from the
// environment. Transfer thread only; no code of ours runs inside UCX except
// handlers that copy and return.
class UcxTransport final : public Transport {
 public:
  // kInvalidArgument for an address, kUnavailable when UCX refuses.
  static absl::StatusOr<std::unique_ptr<UcxTransport>> Create(
      const UcxTransportOptions& options);
  ~UcxTransport() override;

  absl::Status Register(const Region& region) override;
  absl::StatusOr<LinkId> Connect(const LinkArgs& args) override;
  absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) override;
  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override;
  std::optional<absl::Status> Poll(OperationId operation) override;
  bool Progress(TransportEvents& events, bool may_sleep) override;
  void Close(LinkId link) override;

 private:
  struct State;  // all that needs UCX's headers
  explicit UcxTransport(std::unique_ptr<State> state);

  const std::unique_ptr<State> state_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_UCX_UCX_TRANSPORT_H_
