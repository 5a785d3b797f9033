#include "router/server/smoke.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"
#include "proto/inference.grpc.pb.h"

namespace sluice::router {
namespace {

constexpr std::chrono::seconds kPatience(60);
constexpr uint32_t kTokens = 16;

absl::StatusOr<v1::ModelEntry> FirstModel(v1::Inference::Stub& stub) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::ListModelsResponse response;
  RETURN_IF_ERROR(FromGrpcStatus(stub.ListModels(&context, {}, &response)));
  for (const v1::ModelEntry& model : response.models()) {
    if (model.ready()) return model;
  }
  return absl::UnavailableError(
      absl::StrCat("none of ", response.models_size(), " models is ready"));
}

}  // namespace

absl::StatusOr<std::string> SmokeTest(const std::string& address) {
  const auto stub = v1::Inference::NewStub(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  ASSIGN_OR_RETURN(const v1::ModelEntry model, FirstModel(*stub));
  v1::GenerateRequest request;
  request.set_model(model.name());
  request.set_output(v1::TEXT);
  request.mutable_sampling()->set_max_tokens(kTokens);
  request.mutable_sampling()->set_temperature(0);
  bool chat = false;
  for (const std::string& feature : model.features()) {
    chat = chat || feature == "chat";
  }
  if (chat) {
    request.mutable_chat()->set_messages_json(
        R"([{"role":"user","content":"Say hello."}])");
  } else {
    request.set_text("Hello");
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  auto reader = stub->Generate(&context, request);
  std::string text;
  bool ended = false;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    text += event.delta().text();
    ended = ended || event.has_end();
  }
  RETURN_IF_ERROR(FromGrpcStatus(reader->Finish()));
  if (!ended) return absl::InternalError("the answer has no end");
  return text;
}

}  // namespace sluice::router
