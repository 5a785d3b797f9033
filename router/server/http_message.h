#ifndef ROUTER_SERVER_HTTP_MESSAGE_H_
#define ROUTER_SERVER_HTTP_MESSAGE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "router/server/http_error.h"

namespace sluice::router {

// One whole request, as the routes see it. A value.
struct HttpRequest {
  std::string method;  // upper case
  std::string path;    // without the query
  std::string query;   // after '?'; may be empty
  std::vector<std::pair<std::string, std::string>> headers;  // lower-case names
  std::string body;
  int64_t received_us = 0;  // monotonic, at the first byte

  // The value of the only header `name`; "" when absent or repeated.
  absl::string_view Header(absl::string_view name) const;
};

// A whole reply.
struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// The reply of an error, with the retry headers the OpenAI SDKs read.
HttpReply ErrorReply(const HttpError& error);

// The client's X-Request-Id if it is valid, else `ours`.
std::string RequestIdFor(const HttpRequest& request, const std::string& ours);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_MESSAGE_H_
