#include "base/health_service.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/health_watch.h"
#include "base/thread.h"

namespace sluice {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using grpc::health::v1::HealthListRequest;
using grpc::health::v1::HealthListResponse;

constexpr size_t kMaxWatches = 1000;
// Liveness and reason checks have no event; this is how soon they are seen.
constexpr std::chrono::milliseconds kPollPeriod{500};

}  // namespace

class HealthService::Rpc final : public Health::CallbackService {
 public:
  explicit Rpc(std::shared_ptr<HealthWatches> watches)
      : watches_(std::move(watches)) {
    thread_ = StartThread("health", [this] { Publish(); });
  }
  ~Rpc() override { Stop(); }

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const HealthCheckRequest* request,
                                  HealthCheckResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const ServingStatus status = watches_->board.Status(request->service());
    if (status == ServingStatus::kUnknownService) {
      reactor->Finish(
          grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown service"));
    } else {
      response->set_status(ToProto(status));
      reactor->Finish(grpc::Status::OK);
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const HealthListRequest*,
                                 HealthListResponse* response) override {
    for (const std::string& service : watches_->board.services()) {
      (*response->mutable_statuses())[service].set_status(
          ToProto(watches_->board.Status(service)));
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerWriteReactor<HealthCheckResponse>* Watch(
      grpc::CallbackServerContext*,
      const HealthCheckRequest* request) override {
    auto watcher = std::make_shared<HealthWatch>(watches_, request->service());
    bool stopped = false, full = false;
    {
      MutexLock lock(watches_->mu);
      stopped = watches_->stopped;
      full = watches_->calls.size() >= kMaxWatches;
      watches_->calls[watcher.get()] = watcher;
    }
    if (stopped) {
      watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "stopping"));
    } else if (full) {
      watcher->End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                "too many watches"));
    } else {
      watcher->Update();
    }
    return watcher.get();
  }

  void Stop() {
    {
      MutexLock lock(watches_->mu);
      watches_->stopped = true;
      watches_->wake.NotifyOne();
    }
    if (thread_.joinable()) thread_.join();
    for (const auto& watcher : watches_->All()) {
      watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "stopping"));
    }
  }

 private:
  void Publish() {
    for (;;) {
      {
        MutexLock lock(watches_->mu);
        if (!watches_->stopped && !watches_->dirty) {
          watches_->wake.WaitFor(watches_->mu, kPollPeriod);
        }
        if (watches_->stopped) return;
        watches_->dirty = false;
      }
      for (const auto& watcher : watches_->All()) watcher->Update();
    }
  }

  const std::shared_ptr<HealthWatches> watches_;
  std::jthread thread_;
};

HealthService::HealthService(HealthBoard& board)
    : watches_(std::make_shared<HealthWatches>(board)),
      rpc_(std::make_unique<Rpc>(watches_)) {
  board.AddListener([weak = std::weak_ptr<HealthWatches>(watches_)] {
    if (const auto watches = weak.lock()) watches->Wake();
  });
}

HealthService::~HealthService() = default;

grpc::Service* HealthService::service() { return rpc_.get(); }

void HealthService::Shutdown() { rpc_->Stop(); }

}  // namespace sluice
