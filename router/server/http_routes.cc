#include "router/server/http_routes.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "base/strict_json.h"
#include "base/version.h"
#include "router/flow/chat_messages.h"
#include "router/flow/prepare.h"
#include "router/server/call_metadata.h"
#include "router/server/gzip_body.h"
#include "router/server/openai_body.h"

namespace sluice::router {
namespace {

using Json = nlohmann::ordered_json;

// Any fixed moment: models have no date of their own.
constexpr int64_t kModelCreated = 1700000000;

HttpReply JsonReply(const Json& json) {
  HttpReply reply;
  reply.body = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return reply;
}

HttpReply NotFound(absl::string_view path) {
  HttpError error;
  error.status = 404;
  error.type = "not_found_error";
  error.message = absl::StrCat("no such route: ", path);
  return ErrorReply(error);
}

Json ModelEntry(const ServedModel& model) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", kModelCreated},
          {"owned_by", "sluice"},
          {"max_model_len", model.max_context()},
          {"root", model.name()},
          {"parent", nullptr}};
}

HttpReply ListModels(Router& router) {
  Json list = Json::array();
  for (const ModelStatus& status : router.ListModels()) {
    list.push_back(ModelEntry(*status.model));
  }
  return JsonReply({{"object", "list"}, {"data", std::move(list)}});
}

HttpReply GetModel(Router& router, absl::string_view name) {
  for (const ModelStatus& status : router.ListModels()) {
    if (status.model->name() == name) {
      return JsonReply(ModelEntry(*status.model));
    }
  }
  HttpError error;
  error.status = 404;
  error.type = "not_found_error";
  error.code = "model_not_found";
  error.param = "model";
  error.message = absl::StrCat("no model ", name);
  return ErrorReply(error);
}

HttpReply Health(Router& router) {
  const Readiness readiness = router.GetReadiness();
  HttpReply reply =
      JsonReply({{"status", readiness.ready() ? "ok" : "unavailable"},
                 {"reasons", readiness.reasons}});
  reply.status = readiness.ready() ? 200 : 503;
  return reply;
}

HttpReply Version() {
  return JsonReply({{"version", kVersion},
                    {"commit", kCommit},
                    {"build", VersionLine("sluice-router")}});
}

HttpReply CancelRequest(Router& router, absl::string_view id) {
  if (router.Cancel(id, CancelCause::kClient)) {
    HttpReply reply;
    reply.status = 204;
    return reply;
  }
  HttpError error;
  error.status = 404;
  error.type = "not_found_error";
  error.message = absl::StrCat("no request ", id);
  return ErrorReply(error);
}

// The body as a JSON object, by the rules of section 3.2.
Json ParseBody(const HttpRequest& request, uint64_t max_body_bytes,
               std::optional<HttpError>& error) {
  const std::string type =
      absl::AsciiStrToLower(request.Header("content-type"));
  const std::string encoding =
      absl::AsciiStrToLower(request.Header("content-encoding"));
  const bool json_type = absl::StripAsciiWhitespace(type.substr(
                             0, type.find(';'))) == "application/json";
  const bool gzip = encoding == "gzip" || encoding == "x-gzip";
  if (!json_type || (!gzip && !encoding.empty() && encoding != "identity")) {
    error = BadRequest(
        absl::StrCat("body must be application/json, plain or gzip, got ",
                     type.empty() ? "no type" : type,
                     encoding.empty() ? "" : ", ", encoding));
    error->status = 415;
    return {};
  }
  absl::StatusOr<std::string> unpacked;
  if (gzip) {
    unpacked = Gunzip(request.body, max_body_bytes);
    if (!unpacked.ok()) {
      error = ToHttpError(unpacked.status());
      return {};
    }
  }
  absl::StatusOr<Json> json =
      ParseStrictOrderedJson(gzip ? *unpacked : request.body);
  if (!json.ok()) {
    error = BadRequest(absl::StrCat("body: ", json.status().message()));
    return {};
  }
  if (!json->is_object()) {
    error = BadRequest("body must be a JSON object");
    return {};
  }
  return *std::move(json);
}

absl::StatusOr<std::string> RenderBodyChat(BodyReader& body,
                                           const Json& messages,
                                           const ServedModel& model) {
  ChatInput chat;
  ASSIGN_OR_RETURN(chat.messages_json, NormalizeMessages(messages.dump()));
  if (const Json* kwargs = body.Find("chat_template_kwargs")) {
    if (!kwargs->is_object()) {
      return absl::InvalidArgumentError(
          "chat_template_kwargs must be an object");
    }
    chat.kwargs_json = kwargs->dump();
  }
  chat.continue_final_message =
      body.Bool("continue_final_message").value_or(false);
  chat.add_generation_prompt =
      body.Bool("add_generation_prompt").value_or(true) &&
      !chat.continue_final_message;
  chat.now_unix_seconds = SystemClock::Get().UnixMicros() / 1'000'000;
  return model.RenderChat(chat);
}

HttpReply Tokenize(const Json& json, Router& router) {
  std::optional<HttpError> error;
  BodyReader body(json, "", error);
  const auto model = router.FindModel(body.String("model").value_or(""));
  if (!model.ok()) return ErrorReply(ToHttpError(model.status(), "model"));
  const bool with_strings = body.Bool("return_token_strs").value_or(false);
  const std::optional<bool> add_special = body.Bool("add_special_tokens");
  absl::StatusOr<std::string> text = std::string();
  EncodeOptions encode;
  const std::optional<std::string> prompt = body.String("prompt");
  const Json* messages = body.Find("messages");
  body.Unsupported("tools");
  if (prompt.has_value() == (messages != nullptr)) {
    body.Fail(
        BadRequest("exactly one of prompt and messages is required", "prompt"));
  } else if (messages != nullptr) {
    text = RenderBodyChat(body, *messages, **model);
    encode = {.add_special = add_special.value_or(false),
              .parse_special = true};
  } else {
    text = *prompt;
    encode = {.add_special = add_special.value_or(true), .parse_special = true};
  }
  body.Finish({}, nullptr);
  if (error.has_value()) return ErrorReply(*error);
  if (!text.ok()) {
    return ErrorReply(ToHttpError(text.status(), BlamedField(text.status())));
  }
  const absl::StatusOr<Encoding> encoding = (*model)->Tokenize(*text, encode);
  if (!encoding.ok()) return ErrorReply(ToHttpError(encoding.status()));
  Json reply = {{"count", encoding->ids.size()},
                {"max_model_len", (*model)->max_context()},
                {"tokens", encoding->ids}};
  if (with_strings) {
    Json strings = Json::array();
    for (const int32_t id : encoding->ids) {
      strings.push_back(std::string((*model)->tokenizer().TokenBytes(id)));
    }
    reply["token_strs"] = std::move(strings);
  }
  return JsonReply(reply);
}

HttpReply Detokenize(const Json& json, Router& router) {
  std::optional<HttpError> error;
  BodyReader body(json, "", error);
  const auto model = router.FindModel(body.String("model").value_or(""));
  if (!model.ok()) return ErrorReply(ToHttpError(model.status(), "model"));
  std::vector<uint32_t> ids;
  const Json* tokens = body.Find("tokens");
  if (tokens == nullptr || !tokens->is_array()) {
    body.Fail(BadRequest("tokens must be a list of token ids", "tokens"));
  } else {
    for (const Json& id : *tokens) {
      const std::optional<uint32_t> token = TokenIdOf(id);
      if (!token.has_value()) {
        body.Fail(BadRequest(
            absl::StrCat("token ", id.dump(), " is not a token id"), "tokens"));
        break;
      }
      ids.push_back(*token);
    }
  }
  body.Finish({}, nullptr);
  if (error.has_value()) return ErrorReply(*error);
  const absl::StatusOr<std::string> text = (*model)->Detokenize(ids);
  if (!text.ok()) return ErrorReply(ToHttpError(text.status(), "tokens"));
  return JsonReply({{"prompt", *text}});
}

RouteResult Generate(const HttpRequest& request, const Json& json,
                     const HttpRouteOptions& options) {
  RouteResult result;
  std::optional<HttpError> error;
  result.generate = request.path == "/v1/chat/completions"
                        ? ParseChatRequest(json, options.limits, error)
                        : ParseCompletionRequest(json, options.limits, error);
  for (GenerateCall& call : result.generate.calls) {
    call.received_us = request.received_us;
    call.client_request_id = RequestIdFor(request, "");
    for (const auto& [name, value] : request.headers) {
      if (name == "x-request-id") continue;  // valid only if sent once
      const absl::Status status = ApplyHeader(name, value, call);
      if (!status.ok() && !error.has_value()) {
        error = ToHttpError(status, name);
      }
    }
  }
  if (request.Header("x-sluice-timing") == "1") result.generate.timing = true;
  if (error.has_value()) {
    result.reply = ErrorReply(*error);
    result.refused = RefusedCall(request, result.generate, *error);
  }
  return result;
}

// What %XX stands for; nullopt: a broken escape.
std::optional<std::string> PercentDecoded(absl::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      out += text[at];
      continue;
    }
    const absl::string_view digits = text.substr(at + 1, 2);
    if (digits.size() != 2 || !absl::ascii_isxdigit(digits[0]) ||
        !absl::ascii_isxdigit(digits[1])) {
      return std::nullopt;
    }
    out += absl::HexStringToBytes(digits);
    at += 2;
  }
  return out;
}

HttpReply BadEscape(absl::string_view path) {
  return ErrorReply(BadRequest(absl::StrCat("broken %-escape in ", path)));
}

struct Route {
  const char* path;
  const char* methods;  // for Allow
};

constexpr Route kRoutes[] = {
    {"/v1/chat/completions", "POST"},
    {"/v1/completions", "POST"},
    {"/tokenize", "POST"},
    {"/detokenize", "POST"},
    {"/v1/models", "GET, HEAD"},
    {"/health", "GET, HEAD"},
    {"/version", "GET, HEAD"},
    {"/metrics", "GET, HEAD"},
};

HttpReply WrongMethod(absl::string_view method, const char* allowed) {
  HttpError error;
  error.status = 405;
  error.type = "invalid_request_error";
  error.message = absl::StrCat("method ", method, " is not allowed here");
  HttpReply reply = ErrorReply(error);
  reply.headers.emplace_back("Allow", allowed);
  return reply;
}

HttpReply RouteGet(const HttpRequest& request, Router& router,
                   const HttpRouteOptions& options) {
  if (request.path == "/v1/models") return ListModels(router);
  if (request.path == "/health") return Health(router);
  if (request.path == "/version") return Version();
  if (request.path == "/metrics" && options.metrics) {
    HttpReply reply;
    reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
    reply.body = options.metrics();
    return reply;
  }
  return NotFound(request.path);
}

}  // namespace

bool IsGeneration(absl::string_view path) {
  return path == "/v1/chat/completions" || path == "/v1/completions";
}

GenerateCall RefusedCall(const HttpRequest& request,
                         const OpenAiRequest& parsed, const HttpError& error) {
  GenerateCall call;
  call.request.set_model(parsed.model);
  call.surface = Surface::kOpenAi;
  call.stream = parsed.stream;
  call.received_us = request.received_us;
  call.client_request_id = RequestIdFor(request, "");
  if (!parsed.calls.empty()) {
    call.user_hash = parsed.calls[0].user_hash;
    call.trace_id = parsed.calls[0].trace_id;
  }
  call.rejected = StatusOf(error);
  return call;
}

RouteResult RouteHttp(const HttpRequest& request, Router& router,
                      const HttpRouteOptions& options) {
  const bool read = request.method == "GET" || request.method == "HEAD";
  constexpr absl::string_view kModelPrefix = "/v1/models/";
  constexpr absl::string_view kRequestPrefix = "/v1/requests/";
  const absl::string_view path = request.path;
  if (absl::StartsWith(path, kModelPrefix)) {
    if (!read) return {.reply = WrongMethod(request.method, "GET, HEAD")};
    const auto name = PercentDecoded(path.substr(kModelPrefix.size()));
    return {.reply =
                name.has_value() ? GetModel(router, *name) : BadEscape(path)};
  }
  if (absl::StartsWith(path, kRequestPrefix)) {
    if (request.method != "DELETE") {
      return {.reply = WrongMethod(request.method, "DELETE")};
    }
    const auto id = PercentDecoded(path.substr(kRequestPrefix.size()));
    return {.reply =
                id.has_value() ? CancelRequest(router, *id) : BadEscape(path)};
  }
  for (const Route& route : kRoutes) {
    if (path != route.path) continue;
    const bool post = route.methods[0] == 'P';
    if (post ? request.method != "POST" : !read) {
      return {.reply = WrongMethod(request.method, route.methods)};
    }
    if (!post) return {.reply = RouteGet(request, router, options)};
    std::optional<HttpError> error;
    const Json json = ParseBody(request, options.max_body_bytes, error);
    if (error.has_value()) {
      RouteResult result{.reply = ErrorReply(*error)};
      if (IsGeneration(path)) {
        result.refused = RefusedCall(request, result.generate, *error);
      }
      return result;
    }
    if (path == "/tokenize") return {.reply = Tokenize(json, router)};
    if (path == "/detokenize") return {.reply = Detokenize(json, router)};
    return Generate(request, json, options);
  }
  return {.reply = NotFound(path)};
}

}  // namespace sluice::router
