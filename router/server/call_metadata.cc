#include "router/server/call_metadata.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace sluice::router {
namespace {

constexpr size_t kMaxSessionBytes = 256;

absl::Status BadHeader(absl::string_view name, absl::string_view value) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must not be `", value.substr(0, 64), "`"));
}

absl::StatusOr<uint32_t> ParseMs(absl::string_view name,
                                 absl::string_view value) {
  uint32_t ms = 0;
  if (!absl::SimpleAtoi(value, &ms) || ms == 0) return BadHeader(name, value);
  return ms;
}

absl::StatusOr<bool> ParseFlag(absl::string_view name,
                               absl::string_view value) {
  if (value == "1") return true;
  if (value == "0") return false;
  return BadHeader(name, value);
}

void LimitTimeout(int64_t ms, GenerateCall& call) {
  call.timeout_ms = std::min(call.timeout_ms.value_or(ms), ms);
}

// 00-<trace id>-<span id>-<flags>; anything else is not an error.
std::string TraceIdOf(absl::string_view traceparent) {
  const std::vector<absl::string_view> parts = absl::StrSplit(traceparent, '-');
  if (parts.size() < 4 || parts[1].size() != 32) return "";
  for (char c : parts[1]) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return "";
  }
  return absl::AsciiStrToLower(parts[1]);
}

}  // namespace

bool IsClientRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  absl::string_view("._:/=+@-").find(c) !=
                      absl::string_view::npos;
         });
}

absl::Status ApplyHeader(absl::string_view name, absl::string_view value,
                         GenerateCall& call) {
  if (name == "x-request-id") {
    if (IsClientRequestId(value)) call.client_request_id = std::string(value);
  } else if (name == "traceparent") {
    call.trace_id = TraceIdOf(value);
  } else if (name == "x-sluice-deadline-ms") {
    ASSIGN_OR_RETURN(const uint32_t ms, ParseMs(name, value));
    LimitTimeout(ms, call);
  } else if (name == "x-sluice-ttft-deadline-ms") {
    ASSIGN_OR_RETURN(const uint32_t ms, ParseMs(name, value));
    call.request.set_ttft_deadline_ms(ms);
  } else if (name == "x-sluice-session") {
    if (value.size() > kMaxSessionBytes) return BadHeader(name, value);
    call.request.mutable_routing()->set_session_id(std::string(value));
  } else if (name == "x-sluice-timing") {
    ASSIGN_OR_RETURN(const bool on, ParseFlag(name, value));
    if (on) call.request.set_include_timing(true);
  } else if (name == "x-sluice-resumable") {
    ASSIGN_OR_RETURN(const bool on, ParseFlag(name, value));
    if (on) call.request.mutable_resume()->set_enabled(true);
  } else if (name == "x-sluice-allow-numerics-change") {
    ASSIGN_OR_RETURN(const bool on, ParseFlag(name, value));
    if (on) call.request.mutable_resume()->set_allow_numerics_change(true);
  }
  return absl::OkStatus();
}

absl::Status ReadMetadata(const grpc::CallbackServerContext& context,
                          GenerateCall& call) {
  for (const auto& [key, value] : context.client_metadata()) {
    RETURN_IF_ERROR(ApplyHeader(absl::string_view(key.data(), key.size()),
                                absl::string_view(value.data(), value.size()),
                                call));
  }
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return absl::OkStatus();
  }
  LimitTimeout(std::chrono::duration_cast<std::chrono::milliseconds>(
                   deadline - std::chrono::system_clock::now())
                   .count(),
               call);
  return absl::OkStatus();
}

}  // namespace sluice::router
