#include "base/admin_http.h"

#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/admin_connection.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/address.hpp"
#include "boost/asio/steady_timer.hpp"

namespace sluice {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// "127.0.0.1:80", "[::1]:80" or "host:80"; an empty host is every address.
absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& address) {
  const auto wrong = [&address](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\": ", why));
  };
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return wrong("want host:port");
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty()) host = "0.0.0.0";
  boost::system::error_code error;
  const auto ip = asio::ip::make_address(host, error);
  if (!error) return tcp::endpoint(ip, static_cast<uint16_t>(port));
  asio::io_context io;
  const auto found = tcp::resolver(io).resolve(host, "", error);
  if (error || found.empty()) return wrong("no such host");
  return tcp::endpoint(found.begin()->endpoint().address(),
                       static_cast<uint16_t>(port));
}

}  // namespace

struct AdminHttp::Server {
  Server() : acceptor(io), pause(io) {}
  ~Server() {
    io.stop();
    if (thread.joinable()) thread.join();
  }

  absl::Status Bind(const tcp::endpoint& endpoint, const std::string& address) {
    boost::system::error_code error;
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error)
      acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("cannot listen on \"", address, "\": ", error.message()));
  }

  void Accept() {
    acceptor.async_accept([this](boost::system::error_code error,
                                 tcp::socket socket) {
      if (!error && context.num_connections < max_connections) {
        std::make_shared<AdminConnection>(std::move(socket), context)->Start();
      }
      if (!error || error == asio::error::connection_aborted) return Accept();
      if (error == asio::error::operation_aborted) return;
      // Out of descriptors: trying again at once would spin.
      pause.expires_after(std::chrono::milliseconds(100));
      pause.async_wait([this](boost::system::error_code) { Accept(); });
    });
  }

  void Run() {
    for (;;) {
      try {
        io.run();
        return;
      } catch (const std::exception& error) {
        Log(kError, "admin handler threw", {{"what", error.what()}});
      }
    }
  }

  // First declared, so that connections go after everything they use.
  AdminContext context;
  asio::io_context io{1};
  tcp::acceptor acceptor;
  asio::steady_timer pause;
  int max_connections = 0;
  std::jthread thread;
};

absl::StatusOr<std::unique_ptr<AdminHttp>> AdminHttp::Start(
    AdminHttpOptions options) {
  ASSIGN_OR_RETURN(const tcp::endpoint endpoint,
                   ParseEndpoint(options.address));
  auto server = std::make_unique<Server>();
  RETURN_IF_ERROR(server->Bind(endpoint, options.address));
  boost::system::error_code error;
  const int port = server->acceptor.local_endpoint(error).port();
  server->context.handlers = std::move(options.handlers);
  server->context.on_http2 = std::move(options.on_http2);
  server->max_connections = options.max_connections;
  server->Accept();
  server->thread =
      StartThread(options.thread_name, [s = server.get()] { s->Run(); });
  std::string bound = absl::StrCat(
      options.address.substr(0, options.address.rfind(':')), ":", port);
  return std::unique_ptr<AdminHttp>(
      new AdminHttp(std::move(server), std::move(bound), port));
}

AdminHttp::AdminHttp(std::unique_ptr<Server> server, std::string address,
                     int port)
    : server_(std::move(server)), address_(std::move(address)), port_(port) {}

AdminHttp::~AdminHttp() = default;

}  // namespace sluice
