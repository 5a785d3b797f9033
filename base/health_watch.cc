#include "base/health_watch.h"

#include <utility>

namespace sluice {

using grpc::health::v1::HealthCheckResponse;

HealthCheckResponse::ServingStatus ToProto(ServingStatus status) {
  switch (status) {
    case ServingStatus::kServing:
      return HealthCheckResponse::SERVING;
    case ServingStatus::kNotServing:
      return HealthCheckResponse::NOT_SERVING;
    case ServingStatus::kUnknownService:
      break;
  }
  return HealthCheckResponse::SERVICE_UNKNOWN;
}

void HealthWatches::Wake() {
  MutexLock lock(mu);
  dirty = true;
  wake.NotifyOne();
}

std::vector<std::shared_ptr<HealthWatch>> HealthWatches::All() {
  std::vector<std::shared_ptr<HealthWatch>> result;
  MutexLock lock(mu);
  for (const auto& entry : calls) result.push_back(entry.second);
  return result;
}

HealthWatch::HealthWatch(std::shared_ptr<HealthWatches> watches,
                         std::string service)
    : watches_(std::move(watches)), service_(std::move(service)) {}

void HealthWatch::Update() {
  {
    MutexLock lock(mu_);
    if (writing_ || ending_) return;
    const auto status = ToProto(watches_->board.Status(service_));
    if (sent_any_ && status == response_.status()) return;
    response_.set_status(status);
    sent_any_ = writing_ = true;
  }
  StartWrite(&response_);
}

void HealthWatch::End(const grpc::Status& status) {
  {
    MutexLock lock(mu_);
    if (ending_) return;
    ending_ = true;
    end_status_ = status;
    if (writing_) return;  // OnWriteDone() finishes
  }
  Finish(status);
}

void HealthWatch::OnWriteDone(bool ok) {
  bool finish = false;
  {
    MutexLock lock(mu_);
    writing_ = false;
    if (!ok && !ending_) {
      ending_ = true;
      end_status_ = grpc::Status(grpc::StatusCode::CANCELLED, "peer gone");
    }
    finish = ending_;
  }
  if (finish) {
    Finish(end_status_);
  } else {
    Update();
  }
}

void HealthWatch::OnCancel() {
  End(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
}

void HealthWatch::OnDone() {
  std::shared_ptr<HealthWatch> self;  // goes after the lock
  MutexLock lock(watches_->mu);
  auto it = watches_->calls.find(this);
  if (it == watches_->calls.end()) return;
  self = std::move(it->second);
  watches_->calls.erase(it);
}

}  // namespace sluice
