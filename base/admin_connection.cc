#include "base/admin_connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <utility>

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr std::chrono::seconds kHeaderTimeout{10};
constexpr std::chrono::seconds kIdleTimeout{60};
constexpr std::chrono::seconds kWriteTimeout{30};
constexpr uint32_t kMaxHeaderBytes = 8192;
// No HTTP/1.1 method starts like the HTTP/2 preface "PRI * HTTP/2.0\r\n...",
// but PRIM or PRINT might, hence the blank.
constexpr absl::string_view kHttp2Start = "PRI ";

}  // namespace

AdminConnection::AdminConnection(asio::ip::tcp::socket socket,
                                 AdminContext& context)
    : stream_(std::move(socket)), context_(context) {
  ++context_.num_connections;
}

AdminConnection::~AdminConnection() { --context_.num_connections; }

void AdminConnection::Start() {
  stream_.expires_after(kHeaderTimeout);
  if (context_.on_http2) {
    Sniff();
  } else {
    Read();
  }
}

// Looks at the first bytes without taking them.
void AdminConnection::Sniff() {
  stream_.socket().async_wait(
      asio::ip::tcp::socket::wait_read,
      [self = shared_from_this()](beast::error_code error) {
        if (error) return;
        char start[8];
        const ssize_t n = recv(self->stream_.socket().native_handle(), start,
                               kHttp2Start.size(), MSG_PEEK | MSG_DONTWAIT);
        if (n <= 0) return;
        if (absl::string_view(start, static_cast<size_t>(n)) !=
            kHttp2Start.substr(0, static_cast<size_t>(n))) {
          self->Read();
          return;
        }
        // A preface in pieces would wake this wait at once, over and over; no
        // client sends one, so it is read as HTTP/1.1 and fails there.
        if (static_cast<size_t>(n) < kHttp2Start.size()) {
          self->Read();
          return;
        }
        // The descriptor's copy leaves; the stream closes its own.
        const int fd =
            fcntl(self->stream_.socket().native_handle(), F_DUPFD_CLOEXEC, 0);
        if (fd < 0) return;
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        self->context_.on_http2(fd);
      });
}

void AdminConnection::Read() {
  parser_ = std::make_unique<http::request_parser<http::empty_body>>();
  parser_->header_limit(kMaxHeaderBytes);
  parser_->body_limit(0);
  stream_.expires_after(first_ ? kHeaderTimeout : kIdleTimeout);
  first_ = false;
  http::async_read_header(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) {
        self->OnRead(error);
      });
}

void AdminConnection::OnRead(beast::error_code error) {
  if (error == http::error::header_limit) {
    return Refuse(http::status::request_header_fields_too_large);
  }
  if (error == http::error::body_limit) {
    return Refuse(http::status::payload_too_large);
  }
  if (error.category() == http::make_error_code(http::error{}).category() &&
      error != http::error::end_of_stream &&
      error != http::error::partial_message) {
    return Refuse(http::status::bad_request);
  }
  if (error) return;
  if (!parser_->is_done()) return Refuse(http::status::payload_too_large);
  Write(Answer());
}

AdminConnection::Response AdminConnection::Answer() {
  const Request& request = parser_->get();
  Response response{http::status::ok, request.version()};
  response.keep_alive(request.keep_alive());
  response.set(http::field::cache_control, "no-store");
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  const bool head = request.method() == http::verb::head;
  const std::string target(request.target());
  const size_t mark = target.find('?');
  AdminRequest admin;
  admin.path = target.substr(0, mark);
  if (mark != std::string::npos) admin.query = target.substr(mark + 1);
  admin.accept = std::string(request[http::field::accept]);
  const auto handler = context_.handlers.find(admin.path);
  if (handler == context_.handlers.end()) {
    response.result(http::status::not_found);
    response.body() = "not found\n";
  } else if (!head && request.method() != http::verb::get) {
    response.result(http::status::method_not_allowed);
    response.set(http::field::allow, "GET, HEAD");
    response.body() = "method not allowed\n";
  } else {
    AdminReply reply = handler->second(admin);
    response.result(static_cast<unsigned>(reply.status));
    response.set(http::field::content_type, reply.content_type);
    response.body() = std::move(reply.body);
  }
  response.content_length(response.body().size());
  if (head) response.body().clear();
  return response;
}

void AdminConnection::Refuse(http::status status) {
  Response response{status, 11};
  response.keep_alive(false);
  response.body() = std::string(http::obsolete_reason(status)) + "\n";
  response.prepare_payload();
  Write(std::move(response));
}

void AdminConnection::Write(Response response) {
  response_ = std::make_unique<Response>(std::move(response));
  stream_.expires_after(kWriteTimeout);
  http::async_write(
      stream_, *response_,
      [self = shared_from_this()](beast::error_code error, size_t) {
        const bool again = self->response_->keep_alive();
        self->response_.reset();
        if (error) return;
        if (again) return self->Read();
        self->stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both,
                                        error);
      });
}

}  // namespace sluice
