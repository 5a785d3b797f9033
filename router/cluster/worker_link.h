#ifndef ROUTER_CLUSTER_WORKER_LINK_H_
#define ROUTER_CLUSTER_WORKER_LINK_H_

#include <memory>
#include <string>

#include "base/live_count.h"
#include "proto/worker.grpc.pb.h"

namespace sluice::router {

// The router's connection to one worker address. Immutable; thread-safe.
struct WorkerLink {
  LiveCount::Member member;
  std::string address;  // host:port
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Worker::Stub> stub;
};

// Connects lazily and reconnects by itself, at most 1 s apart. `live` counts
// the links, which calls in flight hold too.
std::shared_ptr<const WorkerLink> MakeWorkerLink(const std::string& address,
                                                 const LiveCount& live);

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_WORKER_LINK_H_
