#ifndef ROUTER_SERVER_HTTP_SESSION_H_
#define ROUTER_SERVER_HTTP_SESSION_H_

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>

#include "base/metrics.h"
#include "router/server/compute_pool.h"
#include "router/server/http_gateway.h"

namespace sluice::router {

// What the sessions of one gateway share. Borrowed or counted; any thread.
struct HttpShared {
  // Outlives whatever still posts to it.
  std::shared_ptr<boost::asio::io_context> io;
  HttpGatewayOptions options;
  Router* router = nullptr;
  ComputePool* compute = nullptr;  // the gateway's; ends before `io`
  Gauge* connections = nullptr;
  CounterFamily* bad_input = nullptr;  // surface, reason
  std::atomic<int> open{0};
  std::atomic<bool> draining{false};
};

// One connection, from accept to close; keeps itself alive. The socket's
// executor must be a strand.
class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  // Begins to read. Once.
  virtual void Start() = 0;
  // Cancels what it asked for and closes. Any thread.
  virtual void Close() = 0;
};

std::shared_ptr<HttpConnection> MakeHttpSession(
    boost::asio::ip::tcp::socket socket, std::shared_ptr<HttpShared> shared,
    std::function<void(HttpConnection*)> on_closed);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_SESSION_H_
