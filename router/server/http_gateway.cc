#include "router/server/http_gateway.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "router/server/http_session.h"

namespace sluice::router {

namespace net = boost::asio;
using boost::system::error_code;

struct HttpGateway::Server : std::enable_shared_from_this<Server> {
  explicit Server(int threads)
      : io(std::make_shared<net::io_context>(threads)),
        acceptor(net::make_strand(*io)),
        retry(acceptor.get_executor()) {
    shared->io = io;
  }

  std::shared_ptr<net::io_context> io;
  net::ip::tcp::acceptor acceptor;
  net::steady_timer retry;
  std::shared_ptr<HttpShared> shared = std::make_shared<HttpShared>();
  std::string address;
  int port = 0;
  Mutex mu;
  bool stopped ABSL_GUARDED_BY(mu) = false;
  absl::flat_hash_map<HttpConnection*, std::shared_ptr<HttpConnection>> open
      ABSL_GUARDED_BY(mu);
  std::unique_ptr<ComputePool> compute;
  std::optional<net::executor_work_guard<net::io_context::executor_type>> work;
  std::vector<std::jthread> threads;

  absl::Status Listen(const std::string& wanted);
  void Accept();
  void Adopt(net::ip::tcp::socket socket);
  void Stop();
};

absl::Status HttpGateway::Server::Listen(const std::string& wanted) {
  const size_t colon = wanted.rfind(':');
  int number = 0;
  error_code error;
  std::string host = wanted.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  const net::ip::address ip =
      net::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (colon == std::string::npos || error ||
      !absl::SimpleAtoi(wanted.substr(colon + 1), &number) || number < 0 ||
      number > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("`", wanted, "` is not an address host:port"));
  }
  const net::ip::tcp::endpoint endpoint(ip, static_cast<uint16_t>(number));
  acceptor.open(endpoint.protocol(), error);
  if (!error) {
    acceptor.set_option(net::socket_base::reuse_address(true), error);
  }
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(net::socket_base::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", wanted, ": ", error.message()));
  }
  port = acceptor.local_endpoint().port();
  address = absl::StrCat(wanted.substr(0, colon), ":", port);
  return absl::OkStatus();
}

void HttpGateway::Server::Accept() {
  acceptor.async_accept(
      net::make_strand(*io),
      [self = shared_from_this()](error_code error,
                                  net::ip::tcp::socket socket) {
        if (!self->acceptor.is_open()) return;
        if (!error) {
          self->Adopt(std::move(socket));
          self->Accept();
          return;
        }
        // Out of descriptors: pause, so that live streams can end.
        self->retry.expires_after(std::chrono::milliseconds(50));
        self->retry.async_wait([self](error_code stopped) {
          if (!stopped && self->acceptor.is_open()) self->Accept();
        });
      });
}

void HttpGateway::Server::Adopt(net::ip::tcp::socket socket) {
  const std::weak_ptr<Server> weak = weak_from_this();
  std::shared_ptr<HttpConnection> connection =
      MakeHttpSession(std::move(socket), shared, [weak](HttpConnection* gone) {
        std::shared_ptr<HttpConnection> last;
        if (const std::shared_ptr<Server> self = weak.lock()) {
          MutexLock lock(self->mu);
          const auto it = self->open.find(gone);
          if (it == self->open.end()) return;
          last = std::move(it->second);
          self->open.erase(it);
        }
      });
  {
    MutexLock lock(mu);
    if (stopped) return;
    open[connection.get()] = connection;
  }
  connection->Start();
}

void HttpGateway::Server::Stop() {
  std::vector<std::shared_ptr<HttpConnection>> connections;
  {
    MutexLock lock(mu);
    stopped = true;
    for (auto& [key, connection] : open) connections.push_back(connection);
  }
  net::post(acceptor.get_executor(), [self = shared_from_this()] {
    error_code ignored;
    self->acceptor.close(ignored);
    self->retry.cancel();
  });
  for (const auto& connection : connections) connection->Close();
}

absl::StatusOr<std::unique_ptr<HttpGateway>> HttpGateway::Start(
    HttpGatewayOptions options, Router& router, MetricRegistry& metrics) {
  auto server = std::make_shared<Server>(options.threads);
  server->shared->router = &router;
  server->shared->connections =
      &metrics
           .AddGaugeFamily("sluice_router_connections", "Open connections.",
                           {"surface"})
           .With({"openai"});
  server->shared->bad_input = &metrics.AddCounterFamily(
      "sluice_router_bad_input_total",
      "Requests refused because of what they say.", {"surface", "reason"});
  server->shared->bad_input->CreateAll(
      {{"openai"},
       {"body_limit", "header_limit", "malformed", "request", "target_limit",
        "timeout"}});
  if (absl::Status status = server->Listen(options.address); !status.ok()) {
    return status;
  }
  const int threads = options.threads;
  server->compute = std::make_unique<ComputePool>(options.compute_threads,
                                                  options.compute_threads);
  server->shared->compute = server->compute.get();
  // What is computed is answered on `io`.
  server->work.emplace(server->io->get_executor());
  options.routes.max_body_bytes = options.max_body_bytes;
  server->shared->options = std::move(options);
  server->Accept();
  for (int i = 0; i < threads; ++i) {
    server->threads.push_back(StartThread(
        absl::StrCat("http_", i), [io = server->io.get()] { io->run(); }));
  }
  return std::unique_ptr<HttpGateway>(new HttpGateway(std::move(server)));
}

HttpGateway::HttpGateway(std::shared_ptr<Server> server)
    : server_(std::move(server)) {}

HttpGateway::~HttpGateway() {
  server_->Stop();
  server_->compute->Stop();
  server_->work.reset();
  // run() returns when every handler has run: all connections are closed.
  server_->threads.clear();
}

int HttpGateway::port() const { return server_->port; }
const std::string& HttpGateway::address() const { return server_->address; }

void HttpGateway::StartDrain() { server_->shared->draining = true; }

}  // namespace sluice::router
