#ifndef ROUTER_CLUSTER_REPORT_STREAM_H_
#define ROUTER_CLUSTER_REPORT_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "proto/worker.grpc.pb.h"
#include "router/cluster/worker_link.h"

namespace sluice::router {

// One Worker.Report call. Callbacks run on gRPC's threads, one at a time;
// `on_end` is the last and runs exactly once. Keeps itself alive until then.
class ReportStream final : public grpc::ClientReadReactor<v1::WorkerReport> {
 public:
  struct Callbacks {
    std::function<void(v1::WorkerReport)> on_report;
    std::function<void(absl::Status)> on_end;
  };

  static std::shared_ptr<ReportStream> Start(
      std::shared_ptr<const WorkerLink> link, const std::string& router_id,
      Callbacks callbacks);

  // Ends the call soon; any thread.
  void Cancel() { context_.TryCancel(); }

 private:
  ReportStream(std::shared_ptr<const WorkerLink> link, Callbacks callbacks)
      : link_(std::move(link)), callbacks_(std::move(callbacks)) {}

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  const std::shared_ptr<const WorkerLink> link_;
  const Callbacks callbacks_;
  std::shared_ptr<ReportStream> self_;  // until OnDone()
  grpc::ClientContext context_;
  v1::ReportRequest request_;
  v1::WorkerReport report_;
};

// One Worker.GetModelCard call, put together and checked against its digest.
// As ReportStream.
class CardFetch final : public grpc::ClientReadReactor<v1::ModelCardChunk> {
 public:
  struct Card {
    v1::ModelCard card;
    std::string sha256;  // lower-case hex of the serialised card
  };
  using OnCard = std::function<void(absl::StatusOr<Card>)>;

  static std::shared_ptr<CardFetch> Start(
      std::shared_ptr<const WorkerLink> link, OnCard on_card);

  void Cancel() { context_.TryCancel(); }

 private:
  CardFetch(std::shared_ptr<const WorkerLink> link, OnCard on_card)
      : link_(std::move(link)), on_card_(std::move(on_card)) {}

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  const std::shared_ptr<const WorkerLink> link_;
  const OnCard on_card_;
  std::shared_ptr<CardFetch> self_;  // until OnDone()
  grpc::ClientContext context_;
  v1::GetModelCardRequest request_;
  v1::ModelCardChunk chunk_;
  std::string content_;
  std::string sha256_;
  bool too_large_ = false;
};

// Puts chunks' contents together. kDataLoss: the digest is another.
absl::StatusOr<CardFetch::Card> ParseCard(const std::string& content,
                                          const std::string& sha256);

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_REPORT_STREAM_H_
