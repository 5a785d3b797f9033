#ifndef WORKER_HANDOFF_KV_SERVICE_H_
#define WORKER_HANDOFF_KV_SERVICE_H_

#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/transfer_engine.h"
#include "proto/kv.grpc.pb.h"
#include "worker/handoff/kv_links.h"

namespace sluice::worker {

// Metadata of a Link call: who opens it.
inline constexpr char kLinkWorkerKey[] = "x-sluice-worker";

// sluice.v1.Kv: the answering side of a pair. Stateless but for what it was
// given; gRPC's threads.
class KvService final : public v1::Kv::CallbackService {
 public:
  KvService(kvtransfer::TransferEngine& transfers, KvLinks& links,
            const kvtransfer::LayoutManifest& manifest);

  grpc::ServerUnaryReactor* GetManifest(grpc::CallbackServerContext* context,
                                        const v1::ManifestRequest* request,
                                        v1::LayoutManifest* response) override;
  grpc::ServerUnaryReactor* Pair(grpc::CallbackServerContext* context,
                                 const v1::PairRequest* request,
                                 v1::PairResponse* response) override;
  grpc::ServerBidiReactor<v1::KvMessage, v1::KvMessage>* Link(
      grpc::CallbackServerContext* context) override;

 private:
  kvtransfer::TransferEngine& transfers_;
  KvLinks& links_;
  const v1::LayoutManifest manifest_;
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_KV_SERVICE_H_
