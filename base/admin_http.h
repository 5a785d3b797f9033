#ifndef BASE_ADMIN_HTTP_H_
#define BASE_ADMIN_HTTP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice {

struct AdminRequest {
  std::string path;    // without the query
  std::string query;   // after '?', not decoded; may be empty
  std::string accept;  // the Accept header; may be empty
};

struct AdminReply {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Runs on the server's one thread; must not block or throw.
using AdminHandler = std::function<AdminReply(const AdminRequest&)>;

struct AdminHttpOptions {
  std::string address;                           // host:port, port 0: any
  std::map<std::string, AdminHandler> handlers;  // by exact path
  // If set: a connection that opens with the HTTP/2 preface is given away,
  // descriptor and all, with no byte of it consumed. The callee owns the
  // (non-blocking) descriptor.
  std::function<void(int fd)> on_http2;
  int max_connections = 128;  // beyond: closed at once
  std::string thread_name = "admin";
};

// A small HTTP/1.1 server for GET and HEAD on internal ports: metrics, probes.
// One thread of its own. Unknown path 404, other method 405, request line and
// headers over 8 KiB 431, a body 413; headers must arrive within 10 s and the
// reply be read within 30 s; idle connections close after 60 s. Never throws.
class AdminHttp {
 public:
  // UNAVAILABLE when the address cannot be bound, INVALID_ARGUMENT when it
  // cannot be parsed; both name it.
  static absl::StatusOr<std::unique_ptr<AdminHttp>> Start(
      AdminHttpOptions options);
  ~AdminHttp();  // stops; open connections are closed

  int port() const { return port_; }
  const std::string& address() const { return address_; }  // host:port, bound

 private:
  struct Server;
  AdminHttp(std::unique_ptr<Server> server, std::string address, int port);

  std::unique_ptr<Server> server_;
  const std::string address_;
  const int port_;
};

// One `GET http://address/path`, for --probe. The HTTP status; UNAVAILABLE or
// DEADLINE_EXCEEDED when there is no answer within `timeout_ms`.
absl::StatusOr<int> HttpGetStatus(const std::string& address,
                                  const std::string& path, int64_t timeout_ms);

}  // namespace sluice

#endif  // BASE_ADMIN_HTTP_H_
