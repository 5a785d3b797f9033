#ifndef BASE_HEALTH_SERVICE_H_
#define BASE_HEALTH_SERVICE_H_

#include <memory>

#include "base/health.h"

namespace grpc {
class Service;
}

namespace sluice {

struct HealthWatches;

// grpc.health.v1.Health over a HealthBoard: Check (NOT_FOUND for an unknown
// name), Watch (SERVICE_UNKNOWN for one, and stays open; a change is sent when
// it happens, liveness within 500 ms), List. Our own service because the
// library's has no List and no descriptor for reflection. Register service()
// with one ServerBuilder; the board must outlive this, and this the server.
// Call Shutdown() before Server::Shutdown(): it ends the watches.
class HealthService {
 public:
  explicit HealthService(HealthBoard& board);
  ~HealthService();

  grpc::Service* service();
  void Shutdown();  // idempotent

 private:
  class Rpc;

  const std::shared_ptr<HealthWatches> watches_;
  const std::unique_ptr<Rpc> rpc_;
};

}  // namespace sluice

#endif  // BASE_HEALTH_SERVICE_H_
