#include "router/server/inference_service.h"

#include <utility>

#include "base/clock.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"
#include "router/flow/chat_messages.h"
#include "router/flow/prepare.h"
#include "router/server/generate_reactor.h"

namespace sluice::router {
namespace {

bool HasUnknownFields(const google::protobuf::Message& message) {
  return !message.GetReflection()->GetUnknownFields(message).empty();
}

grpc::ServerUnaryReactor* FinishWith(grpc::CallbackServerContext* context,
                                     const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(FinishStatus(status, *context));
  return reactor;
}

absl::StatusOr<std::string> TextOf(const v1::TokenizeRequest& request,
                                   const ServedModel& model) {
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText:
      return request.text();
    case v1::TokenizeRequest::kChat: {
      const v1::ChatInput& chat = request.chat();
      if (!chat.tools_json().empty() || !chat.tool_choice_json().empty()) {
        return WithReason(
            absl::UnimplementedError("chat.tools_json is not supported"),
            "UNSUPPORTED_PARAMETER");
      }
      ASSIGN_OR_RETURN(std::string messages,
                       NormalizeMessages(chat.messages_json()));
      return model.RenderChat(
          {.messages_json = std::move(messages),
           .kwargs_json = chat.template_kwargs_json(),
           .now_unix_seconds = SystemClock::Get().UnixMicros() / 1'000'000});
    }
    default:
      return absl::InvalidArgumentError("one of text and chat must be given");
  }
}

absl::Status DetokenizeWith(const Router& router,
                            const v1::DetokenizeRequest& request,
                            v1::DetokenizeResponse& response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model,
                   router.FindModel(request.model()));
  ASSIGN_OR_RETURN(std::string text, model->Detokenize(request.ids()));
  response.set_text(std::move(text));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::TokenizeResponse> TokenizeWith(
    const Router& router, const v1::TokenizeRequest& request) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model,
                   router.FindModel(request.model()));
  ASSIGN_OR_RETURN(const std::string text, TextOf(request, *model));
  const bool add_special = request.has_add_special_tokens()
                               ? request.add_special_tokens()
                               : request.has_text();
  ASSIGN_OR_RETURN(const Encoding encoding,
                   model->Tokenize(text, {.add_special = add_special,
                                          .parse_special = true}));
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(encoding.ids.begin(), encoding.ids.end());
  if (request.with_strings()) {
    for (int32_t id : encoding.ids) {
      response.add_strings(std::string(model->tokenizer().TokenBytes(id)));
    }
  }
  response.set_max_context(model->max_context());
  return response;
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  if (on_unknown_fields_ &&
      (HasUnknownFields(*request) || HasUnknownFields(request->sampling()))) {
    on_unknown_fields_("GenerateRequest");
  }
  GenerateReactor* reactor = GenerateReactor::Make(router_, context, *request);
  Compute(*request, [flow = reactor->flow()] { flow->Start(); });
  return reactor;
}

void InferenceService::Compute(const google::protobuf::Message& request,
                               std::function<void()> task) {
  if (compute_ == nullptr) {
    task();
  } else {
    compute_->Post(request.ByteSizeLong(), std::move(task));
  }
}

grpc::ServerUnaryReactor* InferenceService::Cancel(
    grpc::CallbackServerContext* context, const v1::CancelRequest* request,
    v1::CancelResponse* response) {
  if (!IsRequestId(request->request_id())) {
    return FinishWith(context,
                      absl::InvalidArgumentError("request_id must be 1..128 of "
                                                 "[A-Za-z0-9._-]"));
  }
  if (request->attempt() != 0) {
    return FinishWith(context, absl::InvalidArgumentError(
                                   "attempt must be 0: attempts are the "
                                   "router's own"));
  }
  response->set_found(
      router_.Cancel(request->request_id(), CancelCause::kClient));
  return FinishWith(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(
    grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
    v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Compute(*request, [this, context, request, response, reactor] {
    absl::StatusOr<v1::TokenizeResponse> result =
        TokenizeWith(router_, *request);
    const absl::Status status = result.status();
    if (result.ok()) *response = *std::move(result);
    reactor->Finish(FinishStatus(status, *context));
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(
    grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
    v1::DetokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Compute(*request, [this, context, request, response, reactor] {
    const absl::Status status = DetokenizeWith(router_, *request, *response);
    reactor->Finish(FinishStatus(status, *context));
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::ListModels(
    grpc::CallbackServerContext* context, const v1::ListModelsRequest*,
    v1::ListModelsResponse* response) {
  for (const ModelStatus& status : router_.ListModels()) {
    v1::ModelEntry* entry = response->add_models();
    entry->set_name(status.model->name());
    entry->set_max_context(status.model->max_context());
    entry->set_digest(status.model->digest());
    entry->set_ready(status.ready);
    entry->add_features("completions");
    entry->add_features("logprobs");
    if (status.model->chat_template() != nullptr) entry->add_features("chat");
  }
  return FinishWith(context, absl::OkStatus());
}

}  // namespace sluice::router
