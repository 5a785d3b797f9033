#include "router/server/http_error.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/grpc_status.h"
#include "nlohmann/json.hpp"

namespace sluice::router {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxMessageBytes = 1024;
constexpr size_t kMaxParamBytes = 256;

struct Row {
  absl::StatusCode code;
  int http;
  const char* type;
  bool retry;
};

constexpr Row kRows[] = {
    {absl::StatusCode::kInvalidArgument, 400, "invalid_request_error", false},
    {absl::StatusCode::kOutOfRange, 400, "invalid_request_error", false},
    {absl::StatusCode::kUnauthenticated, 401, "authentication_error", false},
    {absl::StatusCode::kPermissionDenied, 403, "permission_error", false},
    {absl::StatusCode::kNotFound, 404, "not_found_error", false},
    {absl::StatusCode::kAlreadyExists, 409, "invalid_request_error", false},
    {absl::StatusCode::kFailedPrecondition, 400, "invalid_request_error",
     false},
    {absl::StatusCode::kAborted, 409, "invalid_request_error", false},
    {absl::StatusCode::kCancelled, 499, "server_error", false},
    {absl::StatusCode::kDeadlineExceeded, 504, "timeout_error", false},
    {absl::StatusCode::kUnimplemented, 501, "invalid_request_error", false},
    {absl::StatusCode::kUnavailable, 503, "server_error", true},
};

Json StringOrNull(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

// Field paths of the native API as the names of the JSON body.
std::string BodyName(const std::string& field) {
  const size_t dot = field.rfind('.');
  return dot == std::string::npos ? field : field.substr(dot + 1);
}

}  // namespace

std::string HttpError::Json() const {
  // What a client sent may be quoted, but not sent back in full.
  const nlohmann::ordered_json body = {
      {"error",
       {{"message", message.substr(0, kMaxMessageBytes)},
        {"type", type},
        {"param", StringOrNull(param.substr(0, kMaxParamBytes))},
        {"code", StringOrNull(code)}}}};
  return body.dump(-1, ' ', false,
                   nlohmann::ordered_json::error_handler_t::replace);
}

HttpError BadRequest(std::string message, std::string param, std::string code) {
  HttpError error;
  error.status = 400;
  error.message = std::move(message);
  error.type = "invalid_request_error";
  error.param = std::move(param);
  error.code = std::move(code);
  return error;
}

HttpError ToHttpError(const absl::Status& status, const std::string& param) {
  HttpError error;
  error.message = std::string(status.message());
  error.param = BodyName(param);
  error.code = absl::AsciiStrToLower(ReasonOf(status));
  error.retry_after_ms = RetryDelayMs(status);
  for (const Row& row : kRows) {
    if (row.code != status.code()) continue;
    error.status = row.http;
    error.type = row.type;
    error.retry = row.retry;
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    error.retry = error.retry_after_ms.has_value();
    error.status = error.retry ? 429 : 413;
    error.type = error.retry ? "rate_limit_error" : "invalid_request_error";
  }
  if (error.code == "unsupported_parameter") error.status = 400;
  if (status.code() == absl::StatusCode::kNotFound && error.code.empty() &&
      absl::StrContains(error.message, "model")) {
    error.code = "model_not_found";
  }
  return error;
}

absl::Status StatusOf(const HttpError& error) {
  const std::string message = error.message.substr(0, kMaxMessageBytes);
  switch (error.status) {
    case 404:
      return absl::NotFoundError(message);
    case 408:
      return absl::DeadlineExceededError(message);
    case 413:
      return absl::ResourceExhaustedError(message);
    case 500:
      return absl::InternalError(message);
    default:
      break;
  }
  if (error.code == "unsupported_parameter") {
    return WithReason(absl::UnimplementedError(message),
                      "UNSUPPORTED_PARAMETER");
  }
  return absl::InvalidArgumentError(message);
}

}  // namespace sluice::router
