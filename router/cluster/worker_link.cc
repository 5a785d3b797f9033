#include "router/cluster/worker_link.h"

#include <grpcpp/grpcpp.h>

#include <utility>

namespace sluice::router {

std::shared_ptr<const WorkerLink> MakeWorkerLink(const std::string& address,
                                                 const LiveCount& live) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetMaxSendMessageSize(64 << 20);
  // A worker that restarts is found again within T_ready.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A host that vanished without a reset is noticed.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  // One connection per link: a reset then belongs to one worker only.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // What a stopped reader leaves in the kernel and in gRPC is bounded by the
  // stream's window.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 << 10);
  // Retries are the flow's business.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  auto channel = grpc::CreateCustomChannel(
      address, grpc::InsecureChannelCredentials(), arguments);
  auto stub = v1::Worker::NewStub(channel);
  return std::shared_ptr<const WorkerLink>(
      new WorkerLink{.member = LiveCount::Member(live),
                     .address = address,
                     .channel = std::move(channel),
                     .stub = std::move(stub)});
}

}  // namespace sluice::router
