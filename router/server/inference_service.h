#ifndef ROUTER_SERVER_INFERENCE_SERVICE_H_
#define ROUTER_SERVER_INFERENCE_SERVICE_H_

#include <functional>
#include <string>

#include "proto/inference.grpc.pb.h"
#include "router/flow/request_flow.h"
#include "router/server/compute_pool.h"

namespace sluice::router {

// The native API, sluice.v1.Inference, over a Router, which outlives it.
// Stateless. What takes as long as a request is large runs on `compute`, for
// gRPC's few threads also carry every stream's tokens.
class InferenceService final : public v1::Inference::CallbackService {
 public:
  // `on_unknown_fields` hears of messages with fields this build lacks.
  // `compute` outlives the server; null: everything on gRPC's threads.
  explicit InferenceService(
      Router& router,
      std::function<void(absl::string_view message)> on_unknown_fields = {},
      ComputePool* compute = nullptr)
      : router_(router),
        on_unknown_fields_(std::move(on_unknown_fields)),
        compute_(compute) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext* context,
      const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(
      grpc::CallbackServerContext* context,
      const v1::DetokenizeRequest* request,
      v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(
      grpc::CallbackServerContext* context,
      const v1::ListModelsRequest* request,
      v1::ListModelsResponse* response) override;

 private:
  // Runs `task`, which concerns `request`.
  void Compute(const google::protobuf::Message& request,
               std::function<void()> task);

  Router& router_;
  const std::function<void(absl::string_view message)> on_unknown_fields_;
  ComputePool* const compute_;
};

// Token ids of a text or a chat, as Tokenize answers them.
absl::StatusOr<v1::TokenizeResponse> TokenizeWith(
    const Router& router, const v1::TokenizeRequest& request);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_INFERENCE_SERVICE_H_
