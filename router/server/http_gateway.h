#ifndef ROUTER_SERVER_HTTP_GATEWAY_H_
#define ROUTER_SERVER_HTTP_GATEWAY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/metrics.h"
#include "router/flow/request_flow.h"
#include "router/server/http_routes.h"

namespace sluice::router {

struct HttpGatewayOptions {
  std::string address;                      // host:port, port 0: any
  uint64_t max_body_bytes = 32 << 20;       // over it: 413
  uint32_t max_header_bytes = 32 << 10;     // over it: 431
  uint32_t max_target_bytes = 8 << 10;      // over it: 414
  uint32_t header_timeout_ms = 10'000;      // then the connection closes
  uint32_t body_timeout_ms = 60'000;        // then 408
  uint32_t idle_timeout_ms = 120'000;       // between requests
  uint32_t keep_alive_comment_ms = 15'000;  // of silence in a stream
  uint32_t write_stall_ms = 60'000;  // a client that takes nothing is ended
  int threads = 2;                   // for sockets
  int compute_threads = 2;  // for parsing and tokenising, per size of body
  HttpRouteOptions routes;
};

// The OpenAI-style API over HTTP/1.1: connections, framing, streams. Owns its
// I/O threads, and others for what large bodies take. A client that goes away
// cancels what it asked for.
class HttpGateway {
 public:
  // kUnavailable when the address cannot be bound, kInvalidArgument when it
  // cannot be parsed. Borrows router and metrics for its life.
  static absl::StatusOr<std::unique_ptr<HttpGateway>> Start(
      HttpGatewayOptions options, Router& router, MetricRegistry& metrics);
  // Closes what is open and joins.
  ~HttpGateway();

  int port() const;
  const std::string& address() const;  // host:port, bound

  // Replies from here on say `Connection: close`.
  void StartDrain();

 private:
  struct Server;
  explicit HttpGateway(std::shared_ptr<Server> server);

  const std::shared_ptr<Server> server_;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_GATEWAY_H_
