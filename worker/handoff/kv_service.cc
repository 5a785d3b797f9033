#include "worker/handoff/kv_service.h"

#include <memory>
#include <string>
#include <utility>

#include "base/grpc_status.h"
#include "kvtransfer/wire/kv_wire.h"
#include "worker/handoff/link_reactor.h"

namespace sluice::worker {
namespace {

using ServerLink = grpc::ServerBidiReactor<v1::KvMessage, v1::KvMessage>;

class ServedLink final : public LinkReactor<ServerLink> {
 public:
  ServedLink(KvLinks& links, std::string peer,
             grpc::CallbackServerContext* context)
      : LinkReactor(links, std::move(peer)), context_(context) {}

  void Run() {
    this->StartSendInitialMetadata();
    Begin();
  }
  void OnDone() override { Release(absl::UnavailableError("link ended")); }
  void OnCancel() override { Close(); }

 private:
  void CancelCall() override { context_->TryCancel(); }
  void EndCall(const absl::Status& status) override {
    Finish(ToGrpcStatus(status));
  }

  grpc::CallbackServerContext* const context_;
};

// A Link call that is refused at once.
class RefusedLink final : public ServerLink {
 public:
  explicit RefusedLink(const absl::Status& status) {
    Finish(ToGrpcStatus(status));
  }
  void OnDone() override { delete this; }
};

}  // namespace

KvService::KvService(kvtransfer::TransferEngine& transfers, KvLinks& links,
                     const kvtransfer::LayoutManifest& manifest)
    : transfers_(transfers),
      links_(links),
      manifest_(kvtransfer::ToProto(manifest)) {}

grpc::ServerUnaryReactor* KvService::GetManifest(
    grpc::CallbackServerContext* context, const v1::ManifestRequest*,
    v1::LayoutManifest* response) {
  *response = manifest_;
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* KvService::Pair(grpc::CallbackServerContext* context,
                                          const v1::PairRequest* request,
                                          v1::PairResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<kvtransfer::PeerOffer> theirs =
      kvtransfer::FromProto(*request);
  absl::Status status = theirs.status();
  if (status.ok()) {
    status = transfers_.CheckOffer(*theirs, request->to_generation());
  }
  if (status.ok()) {
    const kvtransfer::PeerOffer ours = transfers_.PrepareOffer();
    transfers_.Pair(ours, *theirs);
    *response = kvtransfer::ToPairResponse(ours);
  }
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

ServerLink* KvService::Link(grpc::CallbackServerContext* context) {
  const auto& metadata = context->client_metadata();
  const auto worker = metadata.find(kLinkWorkerKey);
  if (worker == metadata.end() || worker->second.empty()) {
    return new RefusedLink(absl::InvalidArgumentError(
        "a link needs the metadata key x-sluice-worker"));
  }
  auto link = std::make_shared<ServedLink>(
      links_, std::string(worker->second.data(), worker->second.size()),
      context);
  link->Run();
  return link.get();
}

}  // namespace sluice::worker
