#include "base/admin_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/metrics_endpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

int Connect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(port));
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  timeval timeout{5, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  return fd;
}

void Send(int fd, const std::string& text) {
  // The server may close before it has read all; what it says counts.
  (void)!send(fd, text.data(), text.size(), MSG_NOSIGNAL);
}

// Everything until the server closes.
std::string ReadAll(int fd) {
  std::string got;
  char buffer[4096];
  for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    got.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return got;
}

std::unique_ptr<AdminHttp> StartServer(AdminHttpOptions options = {}) {
  options.address = "127.0.0.1:0";
  options.handlers["/ok"] = [](const AdminRequest& request) {
    AdminReply reply;
    reply.status = request.query == "bad" ? 503 : 200;
    reply.body = "hello " + request.query;
    return reply;
  };
  auto server = AdminHttp::Start(std::move(options));
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

TEST(AdminHttpTest, Requests) {
  const auto server = StartServer();
  const std::string close_line = "Host: x\r\nConnection: close\r\n\r\n";
  struct Case {
    std::string request;
    std::string status_line;
    std::string body;
  };
  const Case cases[] = {
      {"GET /ok?a=1 HTTP/1.1\r\n" + close_line, "HTTP/1.1 200 OK", "hello a=1"},
      {"GET /ok?bad HTTP/1.1\r\n" + close_line, "HTTP/1.1 503", "hello bad"},
      {"GET /ok HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK", "hello "},
      {"GET /no HTTP/1.1\r\n" + close_line, "HTTP/1.1 404", "not found"},
      {"PUT /ok HTTP/1.1\r\n" + close_line, "HTTP/1.1 405", "not allowed"},
      {"POST /ok HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", "HTTP/1.1 413",
       ""},
      {"GET /ok HTTP/1.1\r\nX: " + std::string(10000, 'x') + "\r\n\r\n",
       "HTTP/1.1 431", ""},
      {"garbage\r\n\r\n", "HTTP/1.1 400", ""},
      {"GET /ok HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400", ""},
  };
  for (const Case& c : cases) {
    const int fd = Connect(server->port());
    Send(fd, c.request);
    const std::string got = ReadAll(fd);
    EXPECT_THAT(got, StartsWith(c.status_line)) << c.request.substr(0, 60);
    EXPECT_THAT(got, HasSubstr(c.body)) << c.request.substr(0, 60);
  }
}

TEST(AdminHttpTest, HeadSendsNoBody) {
  const auto server = StartServer();
  const int fd = Connect(server->port());
  Send(fd, "HEAD /ok HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string got = ReadAll(fd);
  EXPECT_THAT(got, HasSubstr("Content-Length: 6\r\n"));
  EXPECT_THAT(got, Not(HasSubstr("hello")));
}

TEST(AdminHttpTest, KeepsAliveAndPipelines) {
  const auto server = StartServer();
  const int fd = Connect(server->port());
  Send(fd,
       "GET /ok?1 HTTP/1.1\r\n\r\nGET /no HTTP/1.1\r\n\r\n"
       "GET /ok?3 HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string got = ReadAll(fd);
  EXPECT_THAT(got, HasSubstr("hello 1"));
  EXPECT_THAT(got, HasSubstr("404"));
  EXPECT_THAT(got, HasSubstr("hello 3"));
}

TEST(AdminHttpTest, ConnectionsAreBounded) {
  AdminHttpOptions options;
  options.max_connections = 2;
  const auto server = StartServer(std::move(options));
  const int first = Connect(server->port());
  const int second = Connect(server->port());
  EXPECT_EQ(ReadAll(Connect(server->port())), "");
  Send(first, "GET /ok?1 HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(ReadAll(first), HasSubstr("hello 1"));
  Send(second, "GET /ok?2 HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(ReadAll(second), HasSubstr("hello 2"));
}

TEST(AdminHttpTest, GivesHttp2Away) {
  std::atomic<int> given{0};
  AdminHttpOptions options;
  options.on_http2 = [&given](int fd) {
    char start[64];
    const ssize_t n = recv(fd, start, sizeof(start), 0);
    const std::string reply = "got " + std::string(start, n);
    Send(fd, reply);
    close(fd);
    ++given;
  };
  const auto server = StartServer(std::move(options));
  const int fd = Connect(server->port());
  Send(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_EQ(ReadAll(fd), "got PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_EQ(given, 1);
  const int plain = Connect(server->port());
  Send(plain, "GET /ok?x HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(ReadAll(plain), HasSubstr("hello x"));
  const int one_byte = Connect(server->port());
  Send(one_byte, "P");
  Send(one_byte, "OST /ok HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(ReadAll(one_byte), HasSubstr("405"));
  EXPECT_EQ(given, 1);
}

TEST(AdminHttpTest, StopsWithOpenConnections) {
  auto server = StartServer();
  const int idle = Connect(server->port());
  const int half = Connect(server->port());
  Send(half, "GET /ok HT");
  server.reset();
  EXPECT_EQ(ReadAll(idle), "");
  EXPECT_EQ(ReadAll(half), "");
}

TEST(AdminHttpTest, AddressErrors) {
  const auto server = StartServer();
  EXPECT_EQ(server->address(), absl::StrCat("127.0.0.1:", server->port()));
  const auto start = [](const std::string& address) {
    AdminHttpOptions options;
    options.address = address;
    return AdminHttp::Start(std::move(options)).status();
  };
  EXPECT_EQ(start(server->address()).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(start(server->address()).message()),
              HasSubstr(server->address()));
  for (const char* wrong :
       {"", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"}) {
    EXPECT_EQ(start(wrong).code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(HttpGetStatusTest, StatusOrError) {
  auto server = StartServer();
  const std::string address = server->address();
  EXPECT_EQ(*HttpGetStatus(address, "/ok", 5000), 200);
  EXPECT_EQ(*HttpGetStatus(address, "/ok?bad", 5000), 503);
  server.reset();
  EXPECT_EQ(HttpGetStatus(address, "/ok", 5000).status().code(),
            absl::StatusCode::kUnavailable);
  // Accepts by its backlog, never answers.
  const int silent = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(any);
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&any), size), 0);
  ASSERT_EQ(listen(silent, 1), 0);
  getsockname(silent, reinterpret_cast<sockaddr*>(&any), &size);
  EXPECT_EQ(
      HttpGetStatus(absl::StrCat("127.0.0.1:", ntohs(any.sin_port)), "/ok", 50)
          .status()
          .code(),
      absl::StatusCode::kDeadlineExceeded);
  close(silent);
}

TEST(MetricsHandlerTest, FormatByAccept) {
  MetricRegistry registry;
  registry.AddCounter("a_total", "A.").Add();
  const AdminHandler handler = MetricsHandler(registry);
  struct Case {
    std::string accept;
    bool open_metrics;
  };
  const Case cases[] = {
      {"", false},
      {"*/*", false},
      {"text/plain", false},
      {"application/openmetrics-text", true},
      {"application/openmetrics-text;version=1.0.0;q=0.5,"
       "application/openmetrics-text;version=0.0.1;q=0.4,"
       "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
       true},
      {"application/openmetrics-text; version=1.0.0; q=0.2, text/plain;q=0.9",
       false},
      {"application/openmetrics-text;q=0", false},
      {"application/openmetrics-text;version=9.0.0", false},
  };
  for (const Case& c : cases) {
    const AdminReply reply = handler({.path = "/metrics", .accept = c.accept});
    EXPECT_THAT(reply.body, HasSubstr("a_total 1\n"));
    EXPECT_EQ(reply.body.find("# EOF") != std::string::npos, c.open_metrics)
        << c.accept;
    EXPECT_THAT(reply.content_type,
                HasSubstr(c.open_metrics ? "openmetrics" : "text/plain"));
  }
  EXPECT_THAT(handler({}).body, HasSubstr("sluice_scrape_seconds_count 8\n"));
}

}  // namespace
}  // namespace sluice
