#ifndef ROUTER_SERVER_HTTP_ROUTES_H_
#define ROUTER_SERVER_HTTP_ROUTES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "router/flow/request_flow.h"
#include "router/server/http_message.h"
#include "router/server/openai_request.h"

namespace sluice::router {

// What the routes of the API port need.
struct HttpRouteOptions {
  OpenAiLimits limits;
  uint64_t max_body_bytes = 32 << 20;  // of an unpacked body; over it: 413
  // Body of GET /metrics on this port; empty: 404.
  std::function<std::string()> metrics;
};

// Either a reply that is complete, or a generation to run.
struct RouteResult {
  std::optional<HttpReply> reply;
  OpenAiRequest generate;
  // With a reply: it refuses this generation, which is to be counted and
  // logged as a request (its `rejected` is set).
  std::optional<GenerateCall> refused;
};

// The paths that ask for a generation.
bool IsGeneration(absl::string_view path);

// A generation that was refused with `error` before a flow could see it, as
// the call that makes its request line. `parsed`: what of the body could be
// read.
GenerateCall RefusedCall(const HttpRequest& request,
                         const OpenAiRequest& parsed, const HttpError& error);

// Decides what `request` asks for: path, method, media type and body. Answers
// everything but generations itself. Any thread; takes as long as the body is
// large.
RouteResult RouteHttp(const HttpRequest& request, Router& router,
                      const HttpRouteOptions& options);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_ROUTES_H_
