#include "router/server/http_message.h"

#include "absl/strings/str_cat.h"
#include "router/server/call_metadata.h"

namespace sluice::router {

absl::string_view HttpRequest::Header(absl::string_view name) const {
  absl::string_view found;
  int count = 0;
  for (const auto& [key, value] : headers) {
    if (key != name) continue;
    found = value;
    ++count;
  }
  return count == 1 ? found : absl::string_view();
}

HttpReply ErrorReply(const HttpError& error) {
  HttpReply reply;
  reply.status = error.status;
  reply.body = error.Json();
  reply.headers.emplace_back("x-should-retry", error.retry ? "true" : "false");
  if (error.retry_after_ms.has_value()) {
    reply.headers.emplace_back("retry-after-ms",
                               absl::StrCat(*error.retry_after_ms));
    reply.headers.emplace_back(
        "Retry-After", absl::StrCat((*error.retry_after_ms + 999) / 1000));
  }
  return reply;
}

std::string RequestIdFor(const HttpRequest& request, const std::string& ours) {
  const absl::string_view theirs = request.Header("x-request-id");
  return IsClientRequestId(theirs) ? std::string(theirs) : ours;
}

}  // namespace sluice::router
