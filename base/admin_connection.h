#ifndef BASE_ADMIN_CONNECTION_H_
#define BASE_ADMIN_CONNECTION_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/admin_http.h"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"

namespace sluice {

// What all connections of a server share; its thread only.
struct AdminContext {
  std::map<std::string, AdminHandler> handlers;
  std::function<void(int fd)> on_http2;
  int num_connections = 0;
};

// One accepted connection: request after request until it closes. Keeps
// itself alive by the operation it waits for. The server's thread only.
class AdminConnection : public std::enable_shared_from_this<AdminConnection> {
 public:
  AdminConnection(boost::asio::ip::tcp::socket socket, AdminContext& context);
  ~AdminConnection();

  void Start();

 private:
  using Request = boost::beast::http::request<boost::beast::http::empty_body>;
  using Response =
      boost::beast::http::response<boost::beast::http::string_body>;

  void Sniff();
  void Read();
  void OnRead(boost::beast::error_code error);
  Response Answer();
  void Refuse(boost::beast::http::status status);
  void Write(Response response);

  boost::beast::tcp_stream stream_;
  AdminContext& context_;
  boost::beast::flat_buffer buffer_;
  std::unique_ptr<
      boost::beast::http::request_parser<boost::beast::http::empty_body>>
      parser_;
  std::unique_ptr<Response> response_;
  bool first_ = true;
};

}  // namespace sluice

#endif  // BASE_ADMIN_CONNECTION_H_
