#include "base/grpc_status.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/rpc_error.pb.h"

namespace sluice {
namespace {

constexpr char kTypePrefix[] = "type.googleapis.com/";
constexpr char kRetryUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kReasonUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kDomain[] = "sluice";
constexpr int kMaxCode = 16;

}  // namespace

absl::Status WithRetry(absl::Status status, int64_t delay_ms) {
  google::rpc::RetryInfo info;
  delay_ms = std::max<int64_t>(delay_ms, 0);
  info.mutable_retry_delay()->set_seconds(delay_ms / 1000);
  info.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(delay_ms % 1000 * 1'000'000));
  status.SetPayload(kRetryUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Status WithReason(absl::Status status, absl::string_view reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string{reason});
  info.set_domain(kDomain);
  status.SetPayload(kReasonUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

std::optional<int64_t> RetryDelayMs(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryUrl);
  google::rpc::RetryInfo info;
  if (!payload || !info.ParseFromString(std::string{*payload})) {
    return std::nullopt;
  }
  // A peer may send anything; a day is longer than any sane hint.
  constexpr int64_t kMaxSeconds = 86'400;
  const int64_t seconds =
      std::clamp<int64_t>(info.retry_delay().seconds(), 0, kMaxSeconds);
  return seconds * 1000 +
         std::clamp(info.retry_delay().nanos(), 0, 999'999'999) / 1'000'000;
}

std::string ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonUrl);
  google::rpc::ErrorInfo info;
  if (!payload || !info.ParseFromString(std::string{*payload})) return "";
  return info.reason();
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status proto;
  status.ForEachPayload(
      [&proto](absl::string_view url, const absl::Cord& bytes) {
        google::protobuf::Any& any = *proto.add_details();
        any.set_type_url(std::string{url});
        any.set_value(std::string{bytes});
      });
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(status.message());
  if (proto.details().empty()) return grpc::Status(code, message);
  proto.set_code(code);
  proto.set_message(message);
  return grpc::Status(code, message, proto.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = status.error_code();
  absl::Status result(code > 0 && code <= kMaxCode
                          ? static_cast<absl::StatusCode>(code)
                          : absl::StatusCode::kUnknown,
                      status.error_message());
  google::rpc::Status proto;
  if (status.error_details().empty() ||
      !proto.ParseFromString(status.error_details())) {
    return result;
  }
  for (const google::protobuf::Any& any : proto.details()) {
    if (any.type_url().starts_with(kTypePrefix)) {
      result.SetPayload(any.type_url(), absl::Cord(any.value()));
    }
  }
  return result;
}

grpc::Status FinishStatus(const absl::Status& status,
                          grpc::ServerContextBase& context) {
  if (!status.ok()) {
    context.AddTrailingMetadata(
        "grpc-retry-pushback-ms",
        absl::StrCat(RetryDelayMs(status).value_or(-1)));
  }
  return ToGrpcStatus(status);
}

}  // namespace sluice
