#include <chrono>
#include <exception>

#include "absl/strings/str_cat.h"
#include "base/admin_http.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// One GET as a chain of operations under one deadline; the status or the error
// is there when the io_context has run out of work.
class Get {
 public:
  Get(asio::io_context& io, const std::string& host, const std::string& port,
      const std::string& path)
      : resolver_(io), stream_(io), host_(host), port_(port) {
    request_.method(http::verb::get);
    request_.target(path);
    request_.version(11);
    request_.set(http::field::host, host);
    request_.set(http::field::connection, "close");
  }

  void Start(int64_t timeout_ms) {
    stream_.expires_after(std::chrono::milliseconds(timeout_ms));
    beast::error_code error;
    const auto found = resolver_.resolve(host_, port_, error);
    if (error) {
      error_ = error;
      return;
    }
    stream_.async_connect(found, [this](beast::error_code error, auto) {
      if (Failed(error)) return;
      http::async_write(stream_, request_,
                        [this](beast::error_code error, size_t) {
                          if (!Failed(error)) Read();
                        });
    });
  }

  const beast::error_code& error() const { return error_; }
  int status() const { return response_.get().result_int(); }

 private:
  bool Failed(beast::error_code error) {
    error_ = error;
    return bool{error};
  }
  void Read() {
    http::async_read_header(
        stream_, buffer_, response_,
        [this](beast::error_code error, size_t) { Failed(error); });
  }

  asio::ip::tcp::resolver resolver_;
  beast::tcp_stream stream_;
  const std::string host_, port_;
  http::request<http::empty_body> request_;
  http::response_parser<http::string_body> response_;
  beast::flat_buffer buffer_;
  beast::error_code error_;
};

}  // namespace

absl::StatusOr<int> HttpGetStatus(const std::string& address,
                                  const std::string& path, int64_t timeout_ms) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\": want host:port"));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty() || host == "0.0.0.0") host = "127.0.0.1";
  if (host == "::") host = "::1";
  try {
    asio::io_context io;
    Get get(io, host, address.substr(colon + 1), path);
    get.Start(timeout_ms);
    io.run();
    if (!get.error()) return get.status();
    const std::string what =
        absl::StrCat("GET http://", address, path, ": ", get.error().message());
    return get.error() == beast::error::timeout
               ? absl::DeadlineExceededError(what)
               : absl::UnavailableError(what);
  } catch (const std::exception& error) {
    return absl::UnavailableError(error.what());
  }
}

}  // namespace sluice
