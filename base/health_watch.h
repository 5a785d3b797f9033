#ifndef BASE_HEALTH_WATCH_H_
#define BASE_HEALTH_WATCH_H_

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/health.grpc.pb.h"
#include "base/health.h"
#include "base/mutex.h"

// The Watch calls of a HealthService; included by its sources alone.
namespace sluice {

grpc::health::v1::HealthCheckResponse::ServingStatus ToProto(
    ServingStatus status);

class HealthWatch;

// What the calls of one service share. Thread-safe.
struct HealthWatches {
  explicit HealthWatches(HealthBoard& b) : board(b) {}

  void Wake();
  std::vector<std::shared_ptr<HealthWatch>> All();

  HealthBoard& board;
  Mutex mu;
  CondVar wake;
  bool dirty ABSL_GUARDED_BY(mu) = false;
  bool stopped ABSL_GUARDED_BY(mu) = false;
  std::map<HealthWatch*, std::shared_ptr<HealthWatch>> calls
      ABSL_GUARDED_BY(mu);
};

// One Watch call. Any thread may call Update() and End(); the library calls
// the rest. Lives in HealthWatches::calls until OnDone(). Starts no operation
// under its lock, since the library may come back from one.
class HealthWatch final
    : public grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse> {
 public:
  HealthWatch(std::shared_ptr<HealthWatches> watches, std::string service);

  // Sends the status unless it is the one sent last.
  void Update();
  // The first end counts; a write under way finishes before it.
  void End(const grpc::Status& status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  const std::shared_ptr<HealthWatches> watches_;
  const std::string service_;
  Mutex mu_;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool sent_any_ ABSL_GUARDED_BY(mu_) = false;
  grpc::health::v1::HealthCheckResponse response_;  // fixed while writing_
  grpc::Status end_status_;  // written once, by the first End()
};

}  // namespace sluice

#endif  // BASE_HEALTH_WATCH_H_
