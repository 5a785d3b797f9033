#ifndef ROUTER_SERVER_HTTP_ROUTES_H_
#define ROUTER_SERVER_HTTP_ROUTES_H_

#include <functional>
#include <optional>
#include <string>

#include "router/flow/request_flow.h"
#include "router/server/http_message.h"
#include "router/server/openai_request.h"

namespace sluice::router {

// What the routes of the API port need.
struct HttpRouteOptions {
  OpenAiLimits limits;
  // Body of GET /metrics on this port; empty: 404.
  std::function<std::string()> metrics;
};

// Either a reply that is complete, or a generation to run.
struct RouteResult {
  std::optional<HttpReply> reply;
  OpenAiRequest generate;
};

// Decides what `request` asks for: path, method, media type and body. Answers
// everything but generations itself. Any thread.
RouteResult RouteHttp(const HttpRequest& request, Router& router,
                      const HttpRouteOptions& options);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_ROUTES_H_
